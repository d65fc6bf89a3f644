/*
 * Round trips through zstd's library, at levels that use its different match finders and both entropy coders: what was
 * compressed must come back, and the compressed bytes are told by a digest, so that two machines can be compared.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define SIZE (192 * 1024)

static unsigned char data[SIZE], back[SIZE];

static uint64_t fnv(const unsigned char *bytes, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3;
	return hash;
}

/* Words drawn from a small vocabulary by a linear congruence, with a few random bytes: neither trivial nor noise. */
static void fill(void)
{
	uint32_t state = 1;

	for (size_t i = 0; i < SIZE;) {
		state = state * 1664525 + 1013904223;
		uint32_t word = (state >> 20) % 300;
		for (uint32_t k = 0; k < 2 + word % 9 && i < SIZE; k++)
			data[i++] = 'a' + (word * 7 + k * k) % 26;
		if (i < SIZE)
			data[i++] = state >> 29 ? ' ' : state >> 8;
	}
}

static int trip(int level, size_t len)
{
	static unsigned char packed[SIZE + SIZE / 128 + 1024];
	ZSTD_CCtx *compress = ZSTD_createCCtx();
	size_t size;

	ZSTD_CCtx_setParameter(compress, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setParameter(compress, ZSTD_c_checksumFlag, 1);
	size = ZSTD_compress2(compress, packed, sizeof packed, data, len);
	ZSTD_freeCCtx(compress);
	if (ZSTD_isError(size)) {
		printf("zstd level %d: %s\n", level, ZSTD_getErrorName(size));
		return 1;
	}
	memset(back, 0, len);
	size_t got = ZSTD_decompress(back, len, packed, size);
	int same = got == len && !memcmp(back, data, len);
	printf("zstd level %d: %zu bytes, digest %016llx, %s\n", level, size, (unsigned long long)fnv(packed, size),
	       same ? "same" : "NOT the same");
	return !same;
}

int main(void)
{
	int failed = 0;

	fill();
	for (int level = -5; level <= 9; level += 2)
		failed |= trip(level, SIZE);
	failed |= trip(13, SIZE / 4);
	failed |= trip(19, SIZE / 8);
	return failed;
}
