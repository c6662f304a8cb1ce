/* Memory swapped out to a device, to a file, to zram with each compressor, written back by zram, to zswap with each
 * kind of pool, and to a device but still in the swap cache; or much memory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define RW (PROT_READ | PROT_WRITE)
#define FENCED 2 /* pages between the areas, so that no mapping is merged with the next */

typedef uint64_t u64;
enum formula { MIX64, RAMP64, SAME64, ZERO };
static const char *const formulas[] = { "mix64", "ramp64", "same64", "zero" };
static u64 page, seeds;

static void die(const char *what)
{
	perror(what);
	printf("TRUTH {\"failed\":\"%s\"}\n", what);
	exit(1);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		printf("%s: not written\n", path);
	close(fd);
}

static u64 mix64(u64 x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static u64 word(enum formula f, u64 seed, u64 i)
{
	return f == MIX64 ? mix64(seed + i) : f == RAMP64 ? seed + i : f == SAME64 ? seed : 0;
}

static void say(const char *kind, pid_t pid, const void *start, u64 size, enum formula f, u64 seed)
{
	printf("TRUTH {\"area\":\"%s\",\"pid\":%d,\"start\":\"%#llx\",\"size\":%llu,\"file\":\"\",\"attr\":\"\",\"runs\":["
	       "{\"offset\":0,\"size\":%llu,\"formula\":\"%s\",\"seed\":\"%#llx\"}],\"page_step\":1,\"pages\":[]}\n",
	       kind, pid, (unsigned long long)(uintptr_t)start, (unsigned long long)size, (unsigned long long)size,
	       formulas[f], (unsigned long long)seed);
}

static u64 *fenced(u64 size)
{
	char *fence = mmap(NULL, size + 2 * FENCED * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return mmap(fence + FENCED * page, size, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static int is_swapped(const void *start, u64 size)
{
	u64 entry, i, out = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	for (i = 0; i < size / page; i++)
		if (pread(fd, &entry, 8, (off_t)(((uintptr_t)start / page + i) * 8)) == 8)
			out += entry >> 62 & 1;
	close(fd);
	return out == size / page;
}

static u64 *swapped(const char *kind, u64 pages, enum formula f)
{
	u64 size = pages * page, *start = fenced(size), seed = ++seeds << 32, i, tries;

	for (i = 0; i < size / 8; i++)
		start[i] = word(f, seed, i) + (f == ZERO);
	for (i = 0; f == ZERO && i < size / 8; i++)
		start[i] = 0;
	for (tries = 0; tries < 200 && !is_swapped(start, size); tries++) {
		madvise(start, size, MADV_PAGEOUT);
		usleep(20000);
	}
	if (!is_swapped(start, size))
		die(kind);
	say(kind, getpid(), start, size, f, seed);
	return start;
}

/* Pages whose writing has ended stay in the swap cache until memory is short: of this cgroup alone. */
static void empty_swap_cache(void)
{
	int i;

	sync();
	for (i = 0; i < 5; i++) {
		put("/cg/lab/memory.high", "65536");
		usleep(100000);
		put("/cg/lab/memory.high", "max");
	}
}

/* The child's tables say swap, the parent has read the pages back: they are in the swap cache. */
static void in_swap_cache(void)
{
	u64 *start = swapped("cached", 8, MIX64), i;
	pid_t child;

	empty_swap_cache();
	child = fork();
	if (!child) {
		prctl(PR_SET_NAME, "swaps-child");
		for (;;)
			pause();
	}
	for (i = 0; i < 8; i++)
		((volatile u64 *)start)[i * page / 8];
	say("cached", child, start, 8 * page, MIX64, seeds << 32);
}

static int try(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), done = fd >= 0 && write(fd, text, strlen(text)) > 0;

	close(fd);
	return done;
}

static int zram_set(int number, const char *name, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/zram%d/%s", number, name);
	return try(path, text);
}

static int new_zram(void)
{
	FILE *f = fopen("/sys/class/zram-control/hot_add", "r");
	int number = -1;

	if (f && fscanf(f, "%d", &number) != 1)
		number = -1;
	if (f)
		fclose(f);
	return number;
}

static void zram_on(int number)
{
	static int priority = 10;
	char line[64];

	if (!zram_set(number, "disksize", "8M"))
		die("disksize");
	snprintf(line, sizeof(line), "mkswap /dev/zram%d >/dev/null", number);
	if (system(line))
		die("mkswap");
	snprintf(line, sizeof(line), "/dev/zram%d", number);
	if (swapon(line, SWAP_FLAG_PREFER | priority++))
		die(line);
}

#define MOST 600 /* pages: more than the slots that a CPU has set aside on another device (a cluster of 512) */

static void zram(const char *compressor)
{
	int number = new_zram();
	char kind[32];

	if (number < 0 || !zram_set(number, "comp_algorithm", compressor))
		return;
	zram_on(number);
	snprintf(kind, sizeof(kind), "zram-%s", compressor);
	swapped(kind, MOST, RAMP64);
	printf("ZRAM %d %s\n", number, compressor);
}

/* All its pages are on the backing device then, but those that are of one value. As on the other devices, the first
 * pages may have gone elsewhere. */
static int zram_written_back(const char *kind, const char *backing, int packed)
{
	int number = new_zram();
	char ramp[32];

	if (number < 0 || (packed && !zram_set(number, "compressed_writeback", "1")) ||
	    !zram_set(number, "backing_dev", backing))
		return 0;
	zram_on(number);
	snprintf(ramp, sizeof(ramp), "%s-ramp", kind);
	swapped(kind, MOST, MIX64);
	swapped(ramp, MOST, RAMP64);
	sync();
	zram_set(number, "idle", "all");
	if (!zram_set(number, "writeback", "idle"))
		die("writeback");
	return 1;
}

/* Since v7.0 what is written back may stay compressed. This device's backing is a zram itself, so that its content
 * must be given as well: it is copied onto vdc. */
static void zram_packed(void)
{
	int number = new_zram();
	char line[80];

	if (number < 0 || !zram_set(number, "disksize", "8M"))
		die("zram");
	snprintf(line, sizeof(line), "/dev/zram%d", number);
	if (!zram_written_back("zram-packed", line, 1))
		return;
	printf("PACKED %s\n", line);
	snprintf(line, sizeof(line), "dd if=/dev/zram%d of=/dev/vdc bs=1M count=8 seek=32 2>/dev/null", number);
	if (system(line))
		die("dd");
}

static void zrams(void)
{
	static const char *const compressors[] = { "lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate", "842" };
	size_t i;

	for (i = 0; i < sizeof(compressors) / sizeof(compressors[0]); i++)
		zram(compressors[i]);
	zram_written_back("zram-back", "/dev/vdc", 0);
	zram_packed();
}

#define ZSWAP "/sys/module/zswap/parameters/"

/* Kernels from v6.15 on have one kind of pool, and nothing to choose it with. */
static void zswap(void)
{
	static const char *const pools[] = { "", "zbud", "z3fold", "zsmalloc" };
	static const char *const compressors[] = { "lzo", "lz4", "842", "deflate" };
	char kind[32];
	size_t i;

	if (access(ZSWAP "enabled", W_OK))
		return;
	put(ZSWAP "enabled", "Y");
	for (i = 0; i < sizeof(pools) / sizeof(pools[0]); i++) {
		if (i && !try(ZSWAP "zpool", pools[i]))
			continue;
		try(ZSWAP "compressor", compressors[i]);
		snprintf(kind, sizeof(kind), "zswap-ramp%s%s", i ? "-" : "", pools[i]);
		swapped(kind, 24, RAMP64);
	}
	swapped("zswap-same", 8, SAME64);
	put(ZSWAP "enabled", "N");
}

/* The first half of each page does not compress, the rest is zeros. */
static void resident(u64 mib)
{
	u64 size = mib << 20, *start = fenced(size), at, i;

	for (at = 0; at < size / 8; at += page / 8)
		for (i = 0; i < page / 16; i++)
			start[at + i] = mix64(at + i);
	printf("RESIDENT %d %#llx\n", getpid(), (unsigned long long)(uintptr_t)start);
}

static void swap_everywhere(void)
{
	if (swapon("/dev/vda", 0))
		die("swapon");
	swapped("device", 16, MIX64);
	swapped("device-zero", 8, ZERO);
	if (swapon("/disk/swapfile", SWAP_FLAG_PREFER | 5))
		die("swapon");
	swapped("file", MOST, MIX64);
	zswap();
	in_swap_cache();
	zrams();
}

int main(int argc, char **argv)
{
	char pid[16];

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	page = (u64)sysconf(_SC_PAGESIZE);
	prctl(PR_SET_NAME, "swaps");
	snprintf(pid, sizeof(pid), "%d", getpid());
	put("/cg/lab/cgroup.procs", pid);
	if (argc > 1)
		resident((u64)atoi(argv[1]));
	else
		swap_everywhere();
	printf("TRUTH {\"complete\":true}\n");
	fflush(stdout);
	close(open("/tmp/ready", O_CREAT | O_WRONLY, 0644));
	for (;;)
		pause();
}
