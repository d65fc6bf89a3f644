/*
 * mark NUMBER NAME: where a phase of a measurement ends.
 *
 * Prints `nvmx-mark NAME TSC`, waits until the serial line has taken all of it, and writes NUMBER to port 0xe9a, which is
 * a `mark` event to nvmx and nothing to other machines. The time-stamp counter counts instructions on a
 * machine whose clock is its instruction count.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>
#include <termios.h>
#include <x86intrin.h>

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: mark NUMBER NAME\n");
		return 2;
	}
	if (iopl(3)) {
		perror("mark: iopl");
		return 1;
	}
	printf("nvmx-mark %s %llu\n", argv[2], (unsigned long long)__rdtsc());
	fflush(stdout);
	tcdrain(1);
	outl(strtoul(argv[1], NULL, 0), 0xe9a);
	return 0;
}
