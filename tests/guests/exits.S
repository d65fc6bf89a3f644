/*
 * A machine's firmware that does nothing but exit: OUTS writes to port 0x80, which QEMU sees, and CPUIDS CPUIDs, which KVM
 * answers. Then it says in 8 bytes to port 0xe9 how many ticks of the time-stamp counter that took, and leaves through
 * isa-debug-exit. benches/attach.sh measures by it what recording a host costs its guests.
 *
 * 64 KiB at the end of the first 4 GiB; page tables lie at 0x1000. Descriptors are marked as accessed: the CPU would have to
 * write to the ROM otherwise.
 *
 *   cc -c -DOUTS=1000 -DCPUIDS=1000 -o exits.o exits.S && ld --oformat binary -Ttext 0 -e 0 -o exits.bin exits.o
 *   qemu-system-x86_64 -enable-kvm -bios exits.bin -nodefaults -display none -device isa-debug-exit -debugcon file:ticks
 */
#define BASE	0xffff0000
#define AT(of)	(of - rom + BASE)

	.text
rom:
	.code32
start:	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	$0x1000, %edi
	mov	$0x1000, %ecx
	rep stosl
	movl	$0x2003, 0x1000
	movl	$0x3003, 0x2000
	movl	$0x4003, 0x2018
	movl	$0x83, 0x3000		/* the first 2 MiB */
	movl	$0xffe00083, 0x4ff8	/* and the last below 4 GiB */
	mov	%cr4, %eax
	or	$0x20, %eax
	mov	%eax, %cr4
	mov	$0x1000, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax
	mov	%eax, %cr0
	ljmp	$8, $AT(long)

	.code64
long:	mov	$0x8000, %esp
	rdtsc
	shl	$32, %rdx
	lea	(%rax, %rdx), %r9
	mov	$OUTS, %r8d
1:	mov	%r8b, %al
	out	%al, $0x80
	dec	%r8d
	jnz	1b
	mov	$CPUIDS, %r8d
2:	xor	%eax, %eax
	xor	%ecx, %ecx
	cpuid
	dec	%r8d
	jnz	2b
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	sub	%r9, %rax
	mov	$8, %ecx
3:	out	%al, $0xe9
	shr	$8, %rax
	dec	%ecx
	jnz	3b
	xor	%eax, %eax
	mov	$0x501, %dx
	out	%al, %dx
4:	hlt
	jmp	4b

	.balign	16
gdt:	.quad	0, 0x00209b0000000000, 0x00cf93000000ffff, 0x00cf9b000000ffff
gdtr:	.word	31
	.long	AT(gdt)

	.code16
real:	cli
	lgdtl	%cs:(gdtr - rom)
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$0x18, $AT(start)

	.org	rom + 0xfff0
	jmp	real
	.org	rom + 0xffff
	.byte	0
