/* The kinds of memory: each has a content that a formula and a seed give back. A new one: a function, a row in kinds[]. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>
#include "lab.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGE page_size
#define HUGE_PAGE huge_page_size
#define LARGEST_PAGE 65536
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

u64 mix64(u64 x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static struct area *add_area(const char *kind, void *start, u64 size)
{
	unsigned index = __atomic_fetch_add(&board->nareas, 1, __ATOMIC_SEQ_CST);
	struct area *a = &board->areas[index];

	if (index >= MAX_AREAS)
		die("too many areas");
	snprintf(a->kind, sizeof(a->kind), "%s", kind);
	a->pid = getpid();
	a->start = (u64)(uintptr_t)start;
	a->size = size;
	return a;
}

/* Says what a part of the area holds; word i of the *area* is formula(seed, i). */
static struct run *say(struct area *a, u64 offset, u64 size, enum formula f, u64 seed)
{
	struct run *r = &a->runs[a->nruns++];

	*r = (struct run){ offset, size, seed, f };
	return r;
}

static void attribute(struct area *a, const char *attr)
{
	snprintf(a->attr, sizeof(a->attr), "%s", attr);
}

static u64 new_seed(void)
{
	static u64 last;

	return (last += 1) << 32 | (u64)getpid();
}

static u64 word_of(const struct run *r, u64 i)
{
	switch (r->formula) {
	case MIX64:
		return mix64(r->seed + i);
	case RAMP64:
		return r->seed + i;
	case SAME64:
		return r->seed;
	default:
		return 0;
	}
}

static void write_run(const struct area *a, const struct run *r)
{
	volatile u64 *word = (u64 *)(uintptr_t)a->start;
	u64 i;

	for (i = r->offset / 8; i < (r->offset + r->size) / 8; i++)
		word[i] = word_of(r, i);
}

static struct area *filled(const char *kind, void *start, u64 size, enum formula f)
{
	struct area *a;

	if (start == MAP_FAILED)
		die(kind);
	a = add_area(kind, start, size);
	write_run(a, say(a, 0, size, f, new_seed()));
	return a;
}

static void *map(u64 size, int flags)
{
	return mmap(NULL, size, RW, flags, -1, 0);
}

static void touch(void *start, u64 size)
{
	volatile char *p = start;
	u64 i;

	for (i = 0; i < size; i += PAGE)
		(void)p[i];
}

/* A mapping with a PROT_NONE page on either side, so that the kernel does not merge it with its neighbours. */
static void *fenced(u64 size, int flags)
{
	char *fence = mmap(NULL, size + 2 * PAGE, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0);

	return mmap(fence + PAGE, size, RW, flags | MAP_FIXED, -1, 0);
}

static void anon(const char *kind)
{
	filled(kind, fenced(8 * PAGE, PRIVATE), 8 * PAGE, MIX64);
}

static void *aligned_huge(void)
{
	char *p = map(2 * HUGE_PAGE, PRIVATE);

	return (void *)(((uintptr_t)p + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
}

static void thp(const char *kind)
{
	void *p = aligned_huge();

	madvise(p, HUGE_PAGE, MADV_HUGEPAGE);
	filled(kind, p, HUGE_PAGE, MIX64);
}

static void brk_heap(const char *kind)
{
	uintptr_t now = ((uintptr_t)sbrk(0) + PAGE - 1) & ~(PAGE - 1);

	if (brk((void *)(now + 4 * PAGE)))
		die(kind);
	filled(kind, (void *)now, 4 * PAGE, MIX64);
}

static struct run file_run(const char *path, u64 size)
{
	static u64 buf[LARGEST_PAGE / 8];
	struct run r = { 0, size, new_seed(), MIX64 };
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	u64 i;

	for (i = 0; i < size / 8; i++) {
		buf[i % (PAGE / 8)] = word_of(&r, i);
		if (i % (PAGE / 8) == PAGE / 8 - 1 && write(fd, buf, PAGE) != (ssize_t)PAGE)
			die(path);
	}
	if (fsync(fd) || close(fd))
		die(path);
	return r;
}

static struct area *map_file(const char *kind, const char *name, int flags)
{
	char path[40];
	struct area *a;
	struct run r;
	int fd;

	snprintf(path, sizeof(path), "/disk/%s", name);
	r = file_run(path, 8 * PAGE);
	fd = open(path, O_RDWR);
	a = add_area(kind, mmap(NULL, 8 * PAGE, RW, flags, fd, 0), 8 * PAGE);
	if (a->start == (u64)(uintptr_t)MAP_FAILED)
		die(path);
	snprintf(a->file, sizeof(a->file), "%s", path);
	say(a, 0, r.size, r.formula, r.seed);
	return a;
}

static void file_untouched(const char *kind)
{
	attribute(map_file(kind, "untouched", MAP_PRIVATE), "untouched");
}

/* Pages 0, 2, 3 and 5 to 7 are the file's, 1 and 4 this process's. Later runs win. */
static void file_cowed(const char *kind)
{
	struct area *a = map_file(kind, "cowed", MAP_PRIVATE);

	touch((void *)(uintptr_t)a->start, 4 * PAGE);
	write_run(a, say(a, PAGE, PAGE, MIX64, new_seed()));
	write_run(a, say(a, 4 * PAGE, PAGE, MIX64, new_seed()));
}

static void file_shared(const char *kind)
{
	struct area *a = map_file(kind, "shared", MAP_SHARED);

	touch((void *)(uintptr_t)a->start, 8 * PAGE);
	write_run(a, say(a, 2 * PAGE, PAGE, MIX64, new_seed()));
}

static void memfd_shared(const char *kind)
{
	int fd = memfd_create("lab", 0);

	if (fd < 0 || ftruncate(fd, 8 * PAGE))
		die(kind);
	filled(kind, mmap(NULL, 8 * PAGE, RW, MAP_SHARED, fd, 0), 8 * PAGE, MIX64);
}

static void anon_shared(const char *kind)
{
	filled(kind, map(8 * PAGE, SHARED), 8 * PAGE, MIX64);
}

static void sysv_shared(const char *kind)
{
	int id = shmget(0x6c6162, 4 * PAGE, IPC_CREAT | 0600);

	if (semget(0x6c6162, 3, IPC_CREAT | 0600) < 0)
		die("semget");
	filled(kind, shmat(id, NULL, 0), 4 * PAGE, MIX64);
}

static void read_only(const char *kind)
{
	struct area *a = filled(kind, fenced(4 * PAGE, PRIVATE), 4 * PAGE, MIX64);

	mprotect((void *)(uintptr_t)a->start, a->size, PROT_READ);
}

static void prot_none(const char *kind)
{
	struct area *a = filled(kind, fenced(4 * PAGE, PRIVATE), 4 * PAGE, MIX64);

	mprotect((void *)(uintptr_t)a->start, a->size, PROT_NONE);
}

static void dontdump(const char *kind)
{
	struct area *a = filled(kind, fenced(4 * PAGE, PRIVATE), 4 * PAGE, MIX64);

	madvise((void *)(uintptr_t)a->start, a->size, MADV_DONTDUMP);
	attribute(a, "dontdump");
}

static void mlocked(const char *kind)
{
	struct area *a = filled(kind, fenced(4 * PAGE, PRIVATE), 4 * PAGE, MIX64);

	if (mlock((void *)(uintptr_t)a->start, a->size))
		die(kind);
}

static void zero_page(const char *kind)
{
	void *p = fenced(4 * PAGE, PRIVATE);

	say(add_area(kind, p, 4 * PAGE), 0, 4 * PAGE, ZERO, 0);
	touch(p, 4 * PAGE);
}

static void never_touched(const char *kind)
{
	struct area *a = add_area(kind, fenced(4 * PAGE, PRIVATE), 4 * PAGE);

	say(a, 0, 4 * PAGE, ZERO, 0);
	attribute(a, "untouched");
}

static void page_out(struct area *a)
{
	int i;

	for (i = 0; i < 5; i++) {
		madvise((void *)(uintptr_t)a->start, a->size, MADV_PAGEOUT);
		usleep(20000);
	}
	attribute(a, "paged-out");
}

static void swapped(const char *kind, int flags, enum formula f)
{
	page_out(filled(kind, fenced(8 * PAGE, flags), 8 * PAGE, f));
}

static void swap_mix(const char *kind)
{
	swapped(kind, PRIVATE, MIX64);
}

static void swap_ramp(const char *kind)
{
	swapped(kind, PRIVATE, RAMP64);
}

static void swap_same(const char *kind)
{
	swapped(kind, PRIVATE, SAME64);
}

static void swap_shmem(const char *kind)
{
	swapped(kind, SHARED, RAMP64);
}

static void huge_private(const char *kind)
{
	filled(kind, map(HUGE_PAGE, PRIVATE | MAP_HUGETLB), HUGE_PAGE, MIX64);
}

static void huge_shared(const char *kind)
{
	filled(kind, map(HUGE_PAGE, SHARED | MAP_HUGETLB), HUGE_PAGE, MIX64);
}

static struct area cow;

/* Neither the kernel nor the machine need have them. */
static bool has_kind(const char *kind)
{
	return strncmp(kind, "hugetlb", 7) || !access("/proc/sys/vm/nr_hugepages", W_OK);
}

static void fork_cow(const char *kind)
{
	struct area *a = filled(kind, fenced(12 * PAGE, PRIVATE), 12 * PAGE, MIX64);

	cow = *a;
}

static const struct {
	const char *kind;
	void (*make)(const char *kind);
} kinds[] = {
	{ "anon", anon },
	{ "thp", thp },
	{ "brk", brk_heap },
	{ "file-untouched", file_untouched },
	{ "file-cowed", file_cowed },
	{ "file-shared", file_shared },
	{ "memfd-shared", memfd_shared },
	{ "anon-shared", anon_shared },
	{ "sysv-shared", sysv_shared },
	{ "read-only", read_only },
	{ "prot-none", prot_none },
	{ "dontdump", dontdump },
	{ "mlocked", mlocked },
	{ "zero-page", zero_page },
	{ "never-touched", never_touched },
	{ "swap-mix", swap_mix },
	{ "swap-ramp", swap_ramp },
	{ "swap-same", swap_same },
	{ "swap-shmem", swap_shmem },
	{ "hugetlb-private", huge_private },
	{ "hugetlb-shared", huge_shared },
	{ "fork-cow", fork_cow },
};

void make_memory(void)
{
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (has_kind(kinds[i].kind))
			kinds[i].make(kinds[i].kind);
}

/* After the fork the child writes pages 4 to 7, the parent 8 to 11; the others stay shared. */
void fork_cow_child(void)
{
	struct area *a = add_area("fork-cow", (void *)(uintptr_t)cow.start, cow.size);

	say(a, 0, cow.size, MIX64, cow.runs[0].seed);
	write_run(a, say(a, 4 * PAGE, 4 * PAGE, MIX64, new_seed() << 8));
}

void fork_cow_parent(void)
{
	struct area *a = board->areas;

	while (strcmp(a->kind, "fork-cow") || a->pid != getpid())
		a++;
	write_run(a, say(a, 8 * PAGE, 4 * PAGE, MIX64, new_seed()));
}

__attribute__((noipa)) void with_stack_area(void (*then)(void))
{
	volatile char room[4 * PAGE];
	u64 start = ((u64)(uintptr_t)room + PAGE - 1) & ~(PAGE - 1);

	filled("stack", (void *)(uintptr_t)start, 3 * PAGE, MIX64);
	then();
	room[0] = 0;
}
