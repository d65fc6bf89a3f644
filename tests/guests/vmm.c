/* vmm: a small virtual machine monitor on /dev/kvm, for a guest that is a hypervisor itself.
 *
 *   vmm payload [NAME=NUMBER]...          runs guest code whose exits are known, and says how many there were
 *   vmm linux BZIMAGE INITRD MIB CMDLINE  boots Linux with a serial console on stdout
 *
 * The payload executes `cpuid` CPUIDs, `out` writes to a port that the monitor serves, touches `pages` pages that it has
 * not touched before, writes `mmio` times to memory that is not there, and halts. `vms` and `vcpus` say how many virtual
 * machines run it and on how many vCPUs each, in turn on one thread; with `threads` 1 each machine has a thread, on a CPU
 * of its own as far as there are any. `rounds` is how many times it is run; with `pause=MS`, its pages are given back after
 * each round, and the monitor sleeps. With `mark=N`, mark.c marks N on the console before it is run and N + 1 after.
 */
#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PORT 0x10
#define EXIT_PORT 0xf4
#define SERIAL 0x3f8

/* Where things lie in a guest's physical memory. */
#define GDT 0x1000
#define PML4 0x2000
#define PDPT 0x3000
#define DIRECTORIES 0x4000 /* four pages: 4 GiB, identity-mapped by 2 MiB pages */
#define CODE 0x10000
#define STACK 0x20000
#define TOUCHED 0x200000
#define NOWHERE 0xd0000000UL

#define ZERO_PAGE 0x10000
#define COMMAND_LINE 0x20000
#define ACPI 0xe0000 /* five tables, each in 256 bytes */
#define KERNEL 0x1000000UL

struct vm {
	int fd;
	uint8_t *memory;
	uint64_t size;
};

struct vcpu {
	int fd;
	struct kvm_run *run;
	uint64_t exits[64];
};

static int kvm;
static size_t run_size;

/* RDI, RSI, RDX, RCX: CPUIDs, OUTs, pages, MMIO writes. */
extern const char payload[], payload_end[];
__asm__(".pushsection .rodata\n"
	"payload: mov %rdi, %r12; mov %rsi, %r13; mov %rdx, %r14; mov %rcx, %r15\n"
	"1: test %r12, %r12; jz 2f; xor %eax, %eax; xor %ecx, %ecx; cpuid; dec %r12; jmp 1b\n"
	"2: test %r13, %r13; jz 3f; mov %r13d, %eax; out %al, $0x10; dec %r13; jmp 2b\n"
	"3: mov $0x200000, %ebx\n"
	"4: test %r14, %r14; jz 5f; movb $1, (%rbx); add $0x1000, %rbx; dec %r14; jmp 4b\n"
	"5: mov $0xd0000000, %ebx\n"
	"6: test %r15, %r15; jz 7f; mov %r15d, (%rbx); dec %r15; jmp 6b\n"
	"7: hlt; jmp 7b\n"
	"payload_end:\n"
	".popsection\n");

static int control(int fd, unsigned long request, unsigned long argument, const char *what)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		err(1, "%s", what);
	return result;
}

static struct vm new_vm(uint64_t size)
{
	struct vm vm = { .size = size };
	struct kvm_userspace_memory_region region = { .memory_size = size };

	vm.fd = control(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
	control(vm.fd, KVM_SET_TSS_ADDR, 0xfffbd000, "KVM_SET_TSS_ADDR");
	vm.memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm.memory == MAP_FAILED)
		err(1, "mmap of the guest's memory");
	madvise(vm.memory, size, MADV_NOHUGEPAGE);
	region.userspace_addr = (uintptr_t)vm.memory;
	control(vm.fd, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region, "KVM_SET_USER_MEMORY_REGION");
	return vm;
}

static struct vcpu new_vcpu(const struct vm *vm, int number)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[100];
	} cpuid;
	/* Fast strings, as firmware leaves them: Linux that finds them off, and FSRM there, copies wrongly. */
	static struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { { .nmsrs = 1 }, { .index = 0x1a0, .data = 1 } };
	struct vcpu vcpu = { 0 };

	cpuid.head.nent = 100;
	control(kvm, KVM_GET_SUPPORTED_CPUID, (uintptr_t)&cpuid, "KVM_GET_SUPPORTED_CPUID");
	vcpu.fd = control(vm->fd, KVM_CREATE_VCPU, number, "KVM_CREATE_VCPU");
	control(vcpu.fd, KVM_SET_CPUID2, (uintptr_t)&cpuid, "KVM_SET_CPUID2");
	control(vcpu.fd, KVM_SET_MSRS, (uintptr_t)&msrs, "KVM_SET_MSRS");
	vcpu.run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);
	if (vcpu.run == MAP_FAILED)
		err(1, "mmap of a vCPU");
	return vcpu;
}

static uint64_t *at(const struct vm *vm, uint64_t address)
{
	return (uint64_t *)(vm->memory + address);
}

/* 64-bit mode with flat segments and the first 4 GiB mapped where they are. */
static void long_mode(const struct vm *vm, struct vcpu *vcpu)
{
	struct kvm_segment code = { .limit = ~0U, .selector = 0x10, .type = 0xb, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0U, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
	struct kvm_segment task = { .limit = 0x67, .selector = 0x20, .type = 0xb, .present = 1 };
	struct kvm_sregs sregs;
	uint64_t page;

	at(vm, GDT)[2] = 0x00af9b000000ffff;
	at(vm, GDT)[3] = 0x00cf93000000ffff;
	at(vm, GDT)[4] = 0x00008b0000000067;
	*at(vm, PML4) = PDPT | 3;
	for (page = 0; page < 4; page++)
		at(vm, PDPT)[page] = (DIRECTORIES + (page << 12)) | 3;
	for (page = 0; page < 2048; page++)
		at(vm, DIRECTORIES)[page] = page << 21 | 0x83;

	control(vcpu->fd, KVM_GET_SREGS, (uintptr_t)&sregs, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = task;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 0x27;
	sregs.cr0 = 0x80050033;
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	control(vcpu->fd, KVM_SET_SREGS, (uintptr_t)&sregs, "KVM_SET_SREGS");
}

static void run(struct vcpu *vcpu)
{
	if (ioctl(vcpu->fd, KVM_RUN, 0) < 0 && errno != EINTR)
		err(1, "KVM_RUN");
	vcpu->exits[vcpu->run->exit_reason & 63]++;
}

static void give_up(struct vcpu *vcpu)
{
	struct kvm_regs regs;

	control(vcpu->fd, KVM_GET_REGS, (uintptr_t)&regs, "KVM_GET_REGS");
	errx(1, "exit %u of KVM at %#llx, hardware's reason %#llx, suberror %u", vcpu->run->exit_reason, regs.rip,
	     vcpu->run->fail_entry.hardware_entry_failure_reason, vcpu->run->internal.suberror);
}

/* KVM's own counters of a VM or vCPU that are not zero, in their order, by name. */
static void print_stats(int fd, const char *of)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	size_t size;
	uint32_t number;
	int stats = ioctl(fd, KVM_GET_STATS_FD, NULL);

	if (stats < 0 || pread(stats, &header, sizeof(header), 0) != sizeof(header))
		err(1, "KVM_GET_STATS_FD");
	size = sizeof(*desc) + header.name_size;
	desc = malloc(size);
	for (number = 0; number < header.num_desc; number++) {
		uint64_t value;

		if (pread(stats, desc, size, header.desc_offset + number * size) != (ssize_t)size ||
		    pread(stats, &value, 8, header.data_offset + desc->offset) != 8)
			err(1, "KVM's statistics");
		/* Times and histograms are not counts. */
		if ((desc->flags & KVM_STATS_UNIT_MASK) == KVM_STATS_UNIT_NONE && desc->size == 1 && value)
			printf("%s %s %llu\n", of, desc->name, (unsigned long long)value);
	}
	free(desc);
	close(stats);
}

struct wish {
	const char *name;
	uint64_t value;
};

/* vCPUs that take turns on one thread. */
struct team {
	pthread_t thread;
	struct vcpu *vcpu;
	uint64_t vcpus, rounds, cpu, pause;
	/* Where its machines keep the pages that are touched. */
	struct vm *vm;
	uint64_t vms;
	struct kvm_regs start;
};

static void *run_team(void *argument)
{
	struct team *team = argument;
	uint64_t round, number;

	for (round = 0; round < team->rounds; round++) {
		uint64_t left = team->vcpus;
		char halted[64] = { 0 };

		for (number = 0; number < team->vcpus; number++)
			control(team->vcpu[number].fd, KVM_SET_REGS, (uintptr_t)&team->start, "KVM_SET_REGS");
		for (number = 0; left; number = (number + 1) % team->vcpus) {
			struct vcpu *it = &team->vcpu[number];

			if (halted[number])
				continue;
			run(it);
			switch (it->run->exit_reason) {
			case KVM_EXIT_HLT:
				halted[number] = 1;
				left--;
				break;
			case KVM_EXIT_IO:
				if (it->run->io.port != PORT)
					give_up(it);
				break;
			case KVM_EXIT_MMIO:
				if (it->run->mmio.phys_addr != NOWHERE)
					give_up(it);
				break;
			case KVM_EXIT_INTR:
				break;
			default:
				give_up(it);
			}
		}
		if (!team->pause)
			continue;
		for (number = 0; number < team->vms; number++)
			madvise(team->vm[number].memory + TOUCHED, team->vm[number].size - TOUCHED, MADV_DONTNEED);
		usleep(team->pause * 1000);
	}
	return NULL;
}

/* Runs a team on a thread of its own and on one CPU. */
static void start_team(struct team *team)
{
	pthread_attr_t attributes;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(team->cpu, &cpus);
	pthread_attr_init(&attributes);
	pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
	errno = pthread_create(&team->thread, &attributes, run_team, team);
	if (errno)
		err(1, "a thread on CPU %d", (int)team->cpu);
}

/* Runs mark.c on the console, if there is a number for it. */
static void mark(uint64_t number, const char *name)
{
	char command[64];

	snprintf(command, sizeof(command), "mark %llu %s >/dev/console", (unsigned long long)number, name);
	if (number && system(command))
		errx(1, "%s failed", command);
}

static int run_payload(int argc, char **argv)
{
	struct wish wishes[] = { { "cpuid", 1000 }, { "out", 1000 }, { "pages", 1000 }, { "mmio", 100 },
				 { "vms", 1 },	    { "vcpus", 1 },  { "rounds", 1 },   { "mark", 0 },
				 { "threads", 0 },  { "pause", 0 }, { NULL, 0 } };
	struct wish *wish;
	uint64_t vms, vcpus, teams, number;
	struct vm vm[16];
	struct vcpu vcpu[64];
	struct team team[16];

	for (; argc; argc--, argv++) {
		char *value = strchr(*argv, '=');

		for (wish = wishes; wish->name; wish++)
			if (value && !strncmp(*argv, wish->name, value - *argv) && !wish->name[value - *argv])
				break;
		if (!wish->name)
			errx(2, "what is %s?", *argv);
		wish->value = strtoull(value + 1, NULL, 0);
	}
	vms = wishes[4].value;
	vcpus = wishes[5].value;
	if (!vms || vms > 16 || !vcpus || vms * vcpus > 64)
		errx(2, "vms must be 1 to 16, and there may be 64 vCPUs");
	for (number = 0; number < vms; number++) {
		vm[number] = new_vm(TOUCHED + (wishes[2].value * vcpus << 12) + 0x1000);
		memcpy(vm[number].memory + CODE, payload, payload_end - payload);
	}
	for (number = 0; number < vms * vcpus; number++) {
		vcpu[number] = new_vcpu(&vm[number / vcpus], number % vcpus);
		long_mode(&vm[number / vcpus], &vcpu[number]);
	}
	teams = wishes[8].value ? vms : 1;
	mark(wishes[7].value, "begin");
	for (number = 0; number < teams; number++) {
		uint64_t members = vms * vcpus / teams;

		team[number] = (struct team){
			.vcpu = &vcpu[number * members], .vcpus = members, .rounds = wishes[6].value,
			.cpu = number % sysconf(_SC_NPROCESSORS_ONLN), .pause = wishes[9].value,
			.vm = &vm[number * vms / teams], .vms = vms / teams,
			.start = { .rip = CODE, .rsp = STACK, .rflags = 2, .rdi = wishes[0].value, .rsi = wishes[1].value,
				   .rdx = wishes[2].value, .rcx = wishes[3].value },
		};
		if (teams > 1)
			start_team(&team[number]);
		else
			run_team(&team[number]);
	}
	for (number = 0; teams > 1 && number < teams; number++)
		pthread_join(team[number].thread, NULL);
	mark(wishes[7].value ? wishes[7].value + 1 : 0, "end");
	for (number = 0; number < vms * vcpus; number++) {
		struct vcpu *it = &vcpu[number];
		char of[32];

		snprintf(of, sizeof(of), "vm%d vcpu%d", (int)(number / vcpus), (int)(number % vcpus));
		printf("%s user hlt %llu io %llu mmio %llu\n", of, (unsigned long long)it->exits[KVM_EXIT_HLT],
		       (unsigned long long)it->exits[KVM_EXIT_IO], (unsigned long long)it->exits[KVM_EXIT_MMIO]);
		print_stats(it->fd, of);
	}
	return 0;
}

static uint8_t *read_file(const char *name, size_t *size)
{
	struct stat stat;
	uint8_t *bytes;
	int fd = open(name, O_RDONLY);

	if (fd < 0 || fstat(fd, &stat))
		err(1, "%s", name);
	*size = stat.st_size;
	bytes = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		err(1, "%s", name);
	close(fd);
	return bytes;
}

static void checksum(uint8_t *table, uint8_t *sum, size_t size)
{
	*sum = 0;
	for (size_t i = 0; i < size; i++)
		if (table + i != sum)
			*sum -= table[i];
}

static void table(const struct vm *vm, int number, const char *name, uint8_t revision, const void *body, size_t size)
{
	struct {
		char name[4];
		uint32_t size;
		uint8_t revision, sum;
		char maker[26];
	} __attribute__((packed)) head = { .size = sizeof(head) + size, .revision = revision, .maker = "NVMX  NVMX    " };
	uint8_t *to = vm->memory + ACPI + 0x100 * number;

	memcpy(head.name, name, 4);
	memcpy(to, &head, sizeof(head));
	memcpy(to + sizeof(head), body, size);
	checksum(to, to + 9, head.size);
}

/* The least ACPI that says where the local APIC and the I/O APIC are: Linux keeps to the PIC without (or with acpi=off).
 * Each ISA interrupt has the I/O APIC's pin of its number, as KVM has it by itself; ACPI's own is 9. */
static void make_acpi(const struct vm *vm)
{
	struct {
		char signature[8];
		uint8_t sum;
		char maker[6];
		uint8_t revision;
		uint32_t rsdt;
	} __attribute__((packed)) pointer = { "RSD PTR ", 0, "NVMX  ", 0, ACPI + 0x100 };
	uint32_t tables[] = { ACPI + 0x200, ACPI + 0x300 };
	struct {
		uint32_t facs, dsdt;
		uint8_t model, profile;
		uint16_t sci;
		uint8_t rest[68];
	} __attribute__((packed)) fadt = { .dsdt = ACPI + 0x400, .sci = 9, .rest = {
		/* Event and control registers at ports 0x600 and 0x604, where nothing is; no buttons of their own. */
		[9] = 6, [16] = 4, [17] = 6, [40] = 4, [41] = 2, [64] = 0x31,
	} };
	struct {
		uint32_t local, flags;
		uint8_t cpu[8], io[12], sci[10];
	} __attribute__((packed)) madt = {
		0xfee00000, 1,
		{ 0, 8, 0, 0, 1 },
		{ 1, 12, 1, 0, 0, 0, 0xc0, 0xfe },
		{ 2, 10, 0, 9, 9, 0, 0, 0, 0xd },
	};

	memcpy(vm->memory + ACPI, &pointer, sizeof(pointer));
	checksum(vm->memory + ACPI, vm->memory + ACPI + 8, sizeof(pointer));
	table(vm, 1, "RSDT", 1, tables, sizeof(tables));
	table(vm, 2, "FACP", 1, &fadt, sizeof(fadt));
	table(vm, 3, "APIC", 1, &madt, sizeof(madt));
	table(vm, 4, "DSDT", 1, "", 0);
}

/* The 64-bit boot protocol. See: Documentation/x86/boot.rst of Linux. */
static void load_linux(const struct vm *vm, char **argv)
{
	struct boot_params *params = (struct boot_params *)(vm->memory + ZERO_PAGE);
	size_t kernel_size, initrd_size, setup;
	const uint8_t *kernel = read_file(argv[0], &kernel_size), *initrd = read_file(argv[1], &initrd_size);
	uint64_t initrd_at = (vm->size - initrd_size) & ~0xfffUL;

	memcpy(&params->hdr, kernel + 0x1f1, sizeof(params->hdr));
	setup = ((params->hdr.setup_sects ? params->hdr.setup_sects : 4) + 1) * 512;
	if (params->hdr.header != 0x53726448 || !(params->hdr.xloadflags & XLF_KERNEL_64) ||
	    KERNEL + kernel_size > initrd_at)
		errx(1, "%s is no 64-bit bzImage, or there is not enough memory", argv[0]);
	memcpy(vm->memory + KERNEL, kernel + setup, kernel_size - setup);
	memcpy(vm->memory + initrd_at, initrd, initrd_size);
	strcpy((char *)vm->memory + COMMAND_LINE, argv[3]);
	params->hdr.type_of_loader = 0xff;
	params->hdr.cmd_line_ptr = COMMAND_LINE;
	params->hdr.ramdisk_image = initrd_at;
	params->hdr.ramdisk_size = initrd_size;
	params->e820_entries = 3;
	params->e820_table[0] = (struct boot_e820_entry){ 0, 0x9fc00, 1 };
	params->e820_table[1] = (struct boot_e820_entry){ ACPI, 0x1000, 2 };
	params->e820_table[2] = (struct boot_e820_entry){ 0x100000, vm->size - 0x100000, 1 };
	make_acpi(vm);
}

/* A 16550 that sends at once and receives nothing. */
struct serial {
	uint8_t enabled, divisor[2], line, modem, scratch;
	int sent, raised;
};

static void serial_interrupt(const struct vm *vm, struct serial *serial)
{
	struct kvm_irq_level level = { .irq = 4, .level = (serial->enabled & 2) && serial->sent };

	if ((int)level.level != serial->raised)
		control(vm->fd, KVM_IRQ_LINE, (uintptr_t)&level, "KVM_IRQ_LINE");
	serial->raised = level.level;
}

static void serial_write(const struct vm *vm, struct serial *serial, int port, uint8_t value)
{
	int latch = serial->line & 0x80;

	switch (port) {
	case 0:
		if (latch) {
			serial->divisor[0] = value;
			break;
		}
		putchar(value);
		if (value == '\n')
			fflush(stdout);
		serial->sent = 1;
		break;
	case 1:
		if (latch)
			serial->divisor[1] = value;
		else {
			serial->sent |= (value & ~serial->enabled & 2) != 0;
			serial->enabled = value & 0xf;
		}
		break;
	case 3:
		serial->line = value;
		break;
	case 4:
		serial->modem = value;
		break;
	case 7:
		serial->scratch = value;
		break;
	}
	serial_interrupt(vm, serial);
}

static uint8_t serial_read(const struct vm *vm, struct serial *serial, int port)
{
	int latch = serial->line & 0x80;
	uint8_t value;

	switch (port) {
	case 0:
		return latch ? serial->divisor[0] : 0;
	case 1:
		return latch ? serial->divisor[1] : serial->enabled;
	case 2:
		value = serial->raised ? 0xc2 : 0xc1;
		if (serial->raised)
			serial->sent = 0;
		serial_interrupt(vm, serial);
		return value;
	case 3:
		return serial->line;
	case 4:
		return serial->modem;
	case 5:
		return 0x60;
	case 6:
		return 0xb0;
	default:
		return serial->scratch;
	}
}

static int run_linux(int argc, char **argv)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_regs regs = { .rip = KERNEL + 0x200, .rsp = STACK, .rflags = 2, .rsi = ZERO_PAGE };
	struct serial serial = { 0 };
	struct vm vm;
	struct vcpu vcpu;

	if (argc != 4)
		errx(2, "usage: vmm linux BZIMAGE INITRD MIB CMDLINE");
	vm = new_vm(strtoull(argv[2], NULL, 0) << 20);
	control(vm.fd, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
	control(vm.fd, KVM_CREATE_PIT2, (uintptr_t)&pit, "KVM_CREATE_PIT2");
	load_linux(&vm, argv);
	vcpu = new_vcpu(&vm, 0);
	long_mode(&vm, &vcpu);
	control(vcpu.fd, KVM_SET_REGS, (uintptr_t)&regs, "KVM_SET_REGS");
	for (;;) {
		struct kvm_run *it = vcpu.run;
		uint8_t *data = (uint8_t *)it + it->io.data_offset;
		uint32_t count;

		run(&vcpu);
		switch (it->exit_reason) {
		case KVM_EXIT_IO:
			data = (uint8_t *)it + it->io.data_offset;
			if (it->io.port == EXIT_PORT && it->io.direction == KVM_EXIT_IO_OUT) {
				fflush(stdout);
				printf("vmm: the guest ended with %d\n", *data);
				print_stats(vcpu.fd, "vcpu0");
				return *data;
			}
			for (count = 0; count < it->io.count; count++, data += it->io.size) {
				int port = it->io.port - SERIAL, serial_port = port >= 0 && port < 8;

				if (it->io.direction == KVM_EXIT_IO_IN)
					memset(data, 0xff, it->io.size);
				if (it->io.port == 0x71 && it->io.direction == KVM_EXIT_IO_IN)
					*data = 0;
				if (serial_port && it->io.direction == KVM_EXIT_IO_OUT)
					serial_write(&vm, &serial, port, *data);
				else if (serial_port)
					*data = serial_read(&vm, &serial, port);
			}
			break;
		case KVM_EXIT_MMIO:
			if (!it->mmio.is_write)
				memset(it->mmio.data, 0xff, sizeof(it->mmio.data));
			break;
		case KVM_EXIT_INTR:
			break;
		case KVM_EXIT_SHUTDOWN:
			fflush(stdout);
			printf("vmm: the guest shut down\n");
			print_stats(vcpu.fd, "vcpu0");
			return 1;
		default:
			fflush(stdout);
			give_up(&vcpu);
		}
	}
}

int main(int argc, char **argv)
{
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	if (control(kvm, KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION") != 12)
		errx(1, "/dev/kvm speaks another version");
	run_size = control(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	if (argc > 1 && !strcmp(argv[1], "payload"))
		return run_payload(argc - 2, argv + 2);
	if (argc > 1 && !strcmp(argv[1], "linux"))
		return run_linux(argc - 2, argv + 2);
	errx(2, "usage: vmm payload [NAME=NUMBER]... | vmm linux BZIMAGE INITRD MIB CMDLINE");
}
