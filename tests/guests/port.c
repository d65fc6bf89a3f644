/* port NUMBER VALUE [WIDTH]: writes VALUE to an I/O port, as a byte or, with WIDTH 32, as a double word. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int argc, char **argv)
{
	unsigned long port, value;

	if (argc < 3) {
		fprintf(stderr, "usage: port NUMBER VALUE [WIDTH]\n");
		return 2;
	}
	port = strtoul(argv[1], NULL, 0);
	value = strtoul(argv[2], NULL, 0);
	if (iopl(3)) {
		perror("port: iopl");
		return 1;
	}
	if (argc > 3 && atoi(argv[3]) == 32)
		outl(value, port);
	else
		outb(value, port);
	return 0;
}
