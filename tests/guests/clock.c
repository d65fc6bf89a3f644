/*
 * clock NUMBER NAME: what the guest's clocks say, and when that was.
 *
 * Reads the time-stamp counter and the kernel's clocks, and writes NUMBER to port 0xe9a right behind: a `mark` event of nvmx
 * where L1 does it, and an exit to L1 where L2 does. Then prints
 *
 *   nvmx-clock NAME NUMBER TSC MONOTONIC REALTIME
 *
 * the last two in nanoseconds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>
#include <time.h>
#include <x86intrin.h>

static unsigned long long now(clockid_t which)
{
	struct timespec at;

	clock_gettime(which, &at);
	return at.tv_sec * 1000000000ULL + at.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long long tsc, monotonic, realtime;
	unsigned int number;
	int round;

	if (argc != 3) {
		fprintf(stderr, "usage: clock NUMBER NAME\n");
		return 2;
	}
	if (iopl(3)) {
		perror("clock: iopl");
		return 1;
	}
	number = strtoul(argv[1], NULL, 0);
	/* The first round touches the pages that the second needs. */
	for (round = 0; round < 2; round++) {
		tsc = __rdtsc();
		monotonic = now(CLOCK_MONOTONIC);
		realtime = now(CLOCK_REALTIME);
	}
	outl(number, 0xe9a);
	printf("nvmx-clock %s %u %llu %llu %llu\n", argv[2], number, tsc, monotonic, realtime);
	return 0;
}
