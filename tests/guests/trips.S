/*
 * The least hypervisor that runs a guest: VMXON, VMPTRLD, VMLAUNCH, and then VMRESUME again and again, while its guest does
 * nothing but VMCALL. cli/bench/nested.rs measures round trips with it.
 *
 * trips.sh assembles it with TRIPS and ROUNDS to a flat file that is a multiboot kernel and, byte for byte, a disk whose boot
 * sector loads the rest of it. It is linked at 0xfe00: sector 0 runs at 0x7c00, all that is behind it at 0x10000.
 *
 * Prints `nvmx-mark NAME TSC` on the serial line and writes a number to port 0xe9a, as mark.c does, before the first round
 * and after each of ROUNDS rounds of TRIPS round trips. What goes wrong it says on the serial line, too.
 */

/* Where things lie. */
#define PML4		0x20000
#define PDPT		0x21000
#define DIRECTORY	0x22000
#define VMXON_REGION	0x23000
#define VMCS		0x24000
#define EPT		0x25000 /* three pages */
#define TSS		0x28000
#define STACK		0x30000

#define SERIAL		0x3f8

	.text
	.code16
	.globl boot
boot:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %ss
	mov	$0x7c00, %sp
	ljmp	$0, $(1f - boot + 0x7c00)
1:	mov	$0x42, %ah		/* the BIOS's extended read; DL is the disk still */
	mov	$(packet - boot + 0x7c00), %si
	int	$0x13
	jc	2f
	in	$0x92, %al		/* the A20 gate */
	or	$2, %al
	out	%al, $0x92
	lgdtl	gdtr - boot + 0x7c00
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$0x08, $entry
2:	hlt
	jmp	2b

	.balign	4
packet:	.byte	16, 0
	.word	(end - boot) / 512 - 1
	.word	0, 0x1000
	.quad	1
gdtr:	.word	gdt_end - gdt - 1
	.long	gdt

	.org	boot + 510
	.word	0xaa55

	/* See: "Multiboot Specification version 0.6.96"; with addresses, for the file is no ELF. */
	.balign	4
multiboot:
	.long	0x1badb002, 1 << 16, -(0x1badb002 + (1 << 16))
	.long	multiboot, multiboot, 0, 0, entry

	.balign	8
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* 0x08: 32-bit code */
	.quad	0x00af9b000000ffff	/* 0x10: 64-bit code */
	.quad	0x00cf93000000ffff	/* 0x18: data */
	.quad	0x0000890280000067, 0	/* 0x20: the task-state segment */
gdt_end:

	.code32
entry:
	cli
	lgdt	%cs:gdtr32		/* the boot sector has left DS as it was */
	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$STACK, %esp
	cld
	mov	$PML4, %edi
	xor	%eax, %eax
	mov	$((STACK - PML4) / 4), %ecx
	rep stosl
	movl	$(PDPT + 3), PML4
	movl	$(DIRECTORY + 3), PDPT
	movl	$0x83, DIRECTORY	/* the first 2 MiB where they are; for the guest, too */
	movl	$(EPT + 0x1000 + 7), EPT
	movl	$(EPT + 0x2000 + 7), EPT + 0x1000
	movl	$(0x80 + 6 * 8 + 7), EPT + 0x2000
	mov	$PML4, %eax
	mov	%eax, %cr3
	mov	$0x2020, %eax		/* VMXE, PAE */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x100, %eax		/* EFER.LME */
	wrmsr
	mov	$0x80000031, %eax	/* PG, NE, ET, PE */
	mov	%eax, %cr0
	ljmp	$0x10, $long

	.balign	4
gdtr32:	.word	gdt_end - gdt - 1
	.long	gdt

	.code64
long:
	mov	$0x20, %eax
	ltr	%ax
	mov	$SERIAL + 3, %edx	/* 115,200 baud, 8 bits */
	mov	$0x83, %al
	out	%al, %dx
	mov	$SERIAL, %edx
	mov	$1, %al
	out	%al, %dx
	inc	%edx
	xor	%eax, %eax
	out	%al, %dx
	mov	$SERIAL + 3, %edx
	mov	$3, %al
	out	%al, %dx

	mov	$1, %eax
	cpuid
	bt	$5, %ecx
	lea	no_vmx(%rip), %rsi
	jnc	die
	mov	$0x3a, %ecx		/* IA32_FEATURE_CONTROL, where firmware has not set it */
	rdmsr
	test	$1, %al
	jnz	1f
	or	$5, %eax
	wrmsr
1:	mov	$0x480, %ecx		/* IA32_VMX_BASIC: the revision */
	rdmsr
	mov	%eax, VMXON_REGION
	mov	%eax, VMCS
	vmxon	vmxon_pointer(%rip)
	jbe	failed
	vmclear	vmcs_pointer(%rip)
	jbe	failed
	vmptrld	vmcs_pointer(%rip)
	jbe	failed

	/* Controls: what is wanted and what must be. See: SDM "Algorithms for Determining VMX Capabilities". */
	lea	controls(%rip), %rbx
2:	mov	(%rbx), %ecx
	test	%ecx, %ecx
	jz	3f
	rdmsr
	or	8(%rbx), %eax
	and	%edx, %eax
	mov	%eax, %edx
	and	8(%rbx), %edx
	lea	no_control(%rip), %rsi
	cmp	8(%rbx), %edx
	jne	die
	mov	4(%rbx), %edx
	vmwrite	%rax, %rdx
	jbe	failed
	add	$12, %rbx
	jmp	2b

3:	lea	fields(%rip), %rbx
4:	mov	(%rbx), %edx
	vmwrite	8(%rbx), %rdx
	jbe	failed
	add	$16, %rbx
	lea	fields_end(%rip), %rax
	cmp	%rax, %rbx
	jb	4b
	mov	%cr0, %rax
	mov	$0x6c00, %edx		/* the host's CR0, and the guest's */
	vmwrite	%rax, %rdx
	mov	$0x6800, %edx
	vmwrite	%rax, %rdx
	mov	%cr4, %rax
	mov	$0x6c04, %edx		/* CR4 */
	vmwrite	%rax, %rdx
	mov	$0x6804, %edx
	vmwrite	%rax, %rdx

	xor	%ebp, %ebp
	call	mark
	mov	$TRIPS, %ebx
	vmlaunch
	jmp	failed

	/* Where L1 is after each exit of its guest. */
	.balign	16
exited:
	dec	%ebx
	jz	1f
	vmresume
	jmp	failed
1:	mov	$0x4402, %edx		/* the exit reason, for the whole round if for one of it */
	vmread	%rdx, %rax
	lea	no_vmcall(%rip), %rsi
	cmp	$18, %eax
	jne	die
	inc	%ebp
	call	mark
	cmp	$ROUNDS, %ebp
	je	2f
	mov	$TRIPS, %ebx
	vmresume
	jmp	failed
2:	xor	%eax, %eax
	jmp	leave

	/* The guest: its RIP stays where it is. */
guest:	vmcall

failed:
	lea	bad(%rip), %rsi
die:	call	print
	mov	$1, %eax
leave:
	mov	$0xf4, %edx		/* isa-debug-exit, where there is one */
	out	%al, %dx
1:	cli
	hlt
	jmp	1b

	/* Tells that round EBP is over. */
mark:
	lea	mark_text(%rip), %rsi
	call	print
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	mov	$10, %edi
	xor	%ecx, %ecx
1:	xor	%edx, %edx
	div	%rdi
	push	%rdx
	inc	%ecx
	test	%rax, %rax
	jnz	1b
2:	pop	%rax
	add	$'0', %al
	call	put
	dec	%ecx
	jnz	2b
	mov	$'\n', %al
	call	put
	mov	$SERIAL + 5, %edx	/* until the line has taken all of it */
3:	in	%dx, %al
	test	$0x40, %al
	jz	3b
	mov	%ebp, %eax
	mov	$0xe9a, %edx
	out	%eax, %dx
	ret

	/* The text at RSI. */
print:
	lodsb
	test	%al, %al
	jz	1f
	call	put
	jmp	print
1:	ret

	/* AL. */
put:
	mov	%eax, %r8d
	mov	$SERIAL + 5, %edx
1:	in	%dx, %al
	test	$0x20, %al
	jz	1b
	mov	%r8d, %eax
	mov	$SERIAL, %edx
	out	%al, %dx
	ret

mark_text:	.asciz	"nvmx-mark trips "
no_vmx:		.asciz	"trips: there is no VMX\n"
no_control:	.asciz	"trips: a VMX control is missing\n"
no_vmcall:	.asciz	"trips: the guest exited for another reason than VMCALL\n"
bad:		.asciz	"trips: a VMX instruction failed\n"

	.balign	8
vmxon_pointer:	.quad	VMXON_REGION
vmcs_pointer:	.quad	VMCS

	/* Capability MSR, field, wanted. */
controls:
	.long	0x481, 0x4000, 0
	.long	0x482, 0x4002, 0x80000000	/* secondary controls */
	.long	0x48b, 0x401e, 0x22		/* EPT, VPID */
	.long	0x483, 0x400c, 0x200		/* the host in 64-bit mode */
	.long	0x484, 0x4012, 0x200		/* the guest, too */
	.long	0

	.balign	8
fields:
	.quad	0x0000, 1			/* VPID */
	.quad	0x201a, EPT + 0x1e		/* EPT pointer: write-back, four levels */
	.quad	0x2800, -1			/* VMCS link pointer */
	.quad	0x2802, 0
	.quad	0x4004, 0, 0x4006, 0, 0x4008, 0, 0x400a, 0, 0x400e, 0, 0x4010, 0, 0x4014, 0, 0x4016, 0
	.quad	0x6000, 0, 0x6002, 0, 0x6004, 0, 0x6006, 0
	/* The guest's ES to GS, LDTR, TR: selector, limit, rights; bases. */
	.quad	0x0800, 0x18, 0x0802, 0x10, 0x0804, 0x18, 0x0806, 0x18, 0x0808, 0x18, 0x080a, 0x18, 0x080c, 0, 0x080e, 0x20
	.quad	0x4800, 0xffffffff, 0x4802, 0xffffffff, 0x4804, 0xffffffff, 0x4806, 0xffffffff, 0x4808, 0xffffffff
	.quad	0x480a, 0xffffffff, 0x480c, 0, 0x480e, 0x67, 0x4810, gdt_end - gdt - 1, 0x4812, 0
	.quad	0x4814, 0xc093, 0x4816, 0xa09b, 0x4818, 0xc093, 0x481a, 0xc093, 0x481c, 0xc093, 0x481e, 0xc093
	.quad	0x4820, 0x10000, 0x4822, 0x8b
	.quad	0x6806, 0, 0x6808, 0, 0x680a, 0, 0x680c, 0, 0x680e, 0, 0x6810, 0, 0x6812, 0, 0x6814, TSS
	.quad	0x6816, gdt, 0x6818, 0
	/* The rest of it: interruptibility, activity, SYSENTER, CR3, DR7, RSP, RIP, RFLAGS, pending debug exceptions. */
	.quad	0x4824, 0, 0x4826, 0, 0x482a, 0, 0x6824, 0, 0x6826, 0
	.quad	0x6802, PML4, 0x681a, 0x400, 0x681c, STACK, 0x681e, guest, 0x6820, 2, 0x6822, 0
	/* L1, as each exit leaves it. */
	.quad	0x0c00, 0x18, 0x0c02, 0x10, 0x0c04, 0x18, 0x0c06, 0x18, 0x0c08, 0x18, 0x0c0a, 0x18, 0x0c0c, 0x20
	.quad	0x4c00, 0, 0x6c02, PML4, 0x6c06, 0, 0x6c08, 0, 0x6c0a, TSS, 0x6c0c, gdt, 0x6c0e, 0, 0x6c10, 0, 0x6c12, 0
	.quad	0x6c14, STACK, 0x6c16, exited
fields_end:

	.org	boot + (((fields_end - boot) + 511) / 512) * 512
end:
