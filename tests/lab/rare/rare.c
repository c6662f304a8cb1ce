/* Threads in states that the workload has not, and memory of kinds that it has not. It says its truth as the
 * workload does, with the workload's own files: what is called here and not defined here is in ../guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lab.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#define RW (PROT_READ | PROT_WRITE)
#define PAGES 8
#define FIFO "/tmp/go"
#ifdef __x86_64__
#include <sys/io.h>
#define PORTS 1
#else
#define PORTS 0
#endif

struct board *board;
u64 page_size, huge_page_size;

void die(const char *what)
{
	printf("TRUTH {\"failed\":\"%s\",\"pid\":%d,\"errno\":%d}\n", what, getpid(), errno);
	fflush(stdout);
	_exit(1);
}

static u64 addr(const void *p)
{
	return (u64)(uintptr_t)p;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

static void wait_until(volatile u64 *word)
{
	while (!*word)
		usleep(1000);
}

/* -- states */

static void set_sleep(struct thread *t)
{
	set_call(&t->regs, SYS_ppoll, (u64[]){ 0, 0, 0, 0, 0 }, 5);
}

static int filter(unsigned flags, unsigned nr, unsigned answer)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
	int fd;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (fd < 0)
		die("seccomp");
	return fd;
}

static void set_filtered(struct thread *t)
{
	filter(0, SYS_sync, SECCOMP_RET_ERRNO);
	set_sleep(t);
}

/* Its call waits for a supervisor's answer, which does not come. */
static void set_notifying(struct thread *t)
{
	filter(SECCOMP_FILTER_FLAG_NEW_LISTENER, SYS_sync, SECCOMP_RET_USER_NOTIF);
	set_call(&t->regs, SYS_sync, NULL, 0);
}

#ifdef __x86_64__
/* A bitmap of I/O ports: 0x378 to 0x37a are open. And a protection key that allows nothing. */
static void set_ports(struct thread *t)
{
	if (ioperm(0x378, 3, 1))
		die("ioperm");
	syscall(SYS_pkey_alloc, 0, 3);
	set_sleep(t);
}
#endif

static void set_fork(struct thread *t)
{
	set_call(&t->regs, SYS_clone, (u64[]){ SIGCHLD, 0, 0, 0, 0 }, 5);
}

static void set_exit(struct thread *t)
{
	set_call(&t->regs, SYS_exit_group, (u64[]){ 0 }, 1);
}

/* 2 GiB of random bytes into the same megabyte: a call of a minute. */
static void set_busy(struct thread *t)
{
	static struct iovec parts[1024];
	void *room = mmap(NULL, 1 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/dev/urandom", O_RDONLY), i;

	for (i = 0; i < 1024; i++)
		parts[i] = (struct iovec){ room, 1 << 20 };
	set_call(&t->regs, SYS_readv, (u64[]){ (u64)fd, addr(parts), 1024 }, 3);
}

static void set_nothing(struct thread *t)
{
	(void)t;
}

static void become(const char *state);

static void busy_body(struct thread *t)
{
	for (;;)
		park_read(&t->regs);
}

/* The child stays behind its parent, which from now on does nothing but run, on the same CPU. */
static void new_body(struct thread *t)
{
	long pid = park_stop(&t->regs);

	if (pid <= 0)
		die("fork");
	t->pid = t->tid = (pid_t)pid;
	prctl(PR_SET_NAME, "lab-hog");
	become("hog");
}

/* Ends when it is told to, but is traced and therefore stays. */
static void half_body(struct thread *t)
{
	t->regs.ready = 1;
	wait_until(&t->outer.ready);
	syscall(SYS_exit, 0);
}


/* What it reads is what it then writes, from the same place to the same descriptor: only the call's number
 * changes until the machine crashes. */
static void crash_body(struct thread *t)
{
	int fd = open(FIFO, O_RDWR);

	set_call(&t->regs, SYS_read, (u64[]){ (u64)fd, addr(t->scratch), 1 }, 3);
	park_read(&t->regs);
	dup2(open("/proc/sysrq-trigger", O_WRONLY), fd);
	set_call(&t->regs, SYS_write, (u64[]){ (u64)fd, addr(t->scratch), 1 }, 3);
	park_read(&t->regs);
}

#define PARK(n) park_##n, "park_" #n

static const struct state rare[] = {
	{ "sleep", PARK(pause), set_sleep, BY_SYSCALL, "S", .body = NULL },
	{ "filtered", PARK(pause), set_filtered, BY_SYSCALL, "S", .body = NULL },
	{ "notifying", PARK(pause), set_notifying, BY_SYSCALL, "S", .body = NULL },
#ifdef __x86_64__
	{ "ports", PARK(pause), set_ports, BY_SYSCALL, "S", .body = NULL },
#endif
	{ "new", PARK(stop), set_fork, BY_SYSCALL_DONE, "R", .body = new_body },
	{ "hog", PARK(spin), set_nothing, BY_EXCEPTION, "R", .body = NULL },
	{ "busy", PARK(read), set_busy, BY_SYSCALL, "R", .body = busy_body, .cpu = 3 },
	{ "entering", PARK(pause), set_sleep, BY_SYSCALL, "t", .body = NULL },
	{ "leaving", PARK(stop), set_exit, BY_SYSCALL, "t", .body = NULL },
	{ "half", NULL, "half_body", set_nothing, BY_LIBC, "Z", .body = half_body },
	{ "crash", PARK(read), set_nothing, BY_SYSCALL, "S", .body = crash_body },
	{ "fast", NULL, "_start", set_nothing, BY_COMPAT, "S", .body = NULL },
	{ .name = NULL },
};

static struct thread *rare_thread(const char *name)
{
	struct thread *t = new_thread("pause");
	const struct state *s = rare;

	while (s->name && strcmp(s->name, name))
		s++;
	if (!s->name)
		die(name);
	t->state = s;
	return t;
}

static void become(const char *state)
{
	thread_main(rare_thread(state));
}

/* -- processes */

static void on_cpu(int cpu, int priority)
{
	struct sched_param param = { .sched_priority = priority };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || sched_setscheduler(0, SCHED_FIFO, &param))
		die("sched_setscheduler");
}

static void forking(void)
{
	on_cpu(1, 10);
	become("new");
}

static void busy(void)
{
	become("busy");
}

static struct thread *handed; /* to a process that is traced */

static void traced(void)
{
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	thread_main(handed);
}

static pid_t spawn_traced(const char *role, const char *state)
{
	pid_t pid;

	handed = rare_thread(state);
	pid = spawn(role, traced);
	waitpid(pid, NULL, WUNTRACED);
	return pid;
}

/* Up to the entry of the call that it parks with. */
static void stop_at_entry(void)
{
	pid_t pid = spawn_traced("lab-entering", "entering");

	while (!handed->regs.ready) {
		ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
		waitpid(pid, NULL, WUNTRACED);
	}
}

static void stop_at_exit(void)
{
	pid_t pid = spawn_traced("lab-leaving", "leaving");

	ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACEEXIT);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
}

static void *half(void *arg)
{
	return thread_main(arg);
}

static void half_dead(void)
{
	pthread_t id;

	if (pthread_create(&id, NULL, half, handed))
		die("pthread_create");
	become("sleep");
}

static void stop_half(void)
{
	struct thread *t = handed = rare_thread("half");

	spawn("lab-half", half_dead);
	wait_until(&t->regs.ready);
	if (ptrace(PTRACE_SEIZE, t->tid, NULL, NULL))
		die("PTRACE_SEIZE");
	t->outer.ready = 1;
}

static void crasher(void)
{
	become("crash");
}

static void start(const char *state)
{
	pthread_t id;

	if (pthread_create(&id, NULL, thread_main, rare_thread(state)))
		die("pthread_create");
}

static void sandbox(void)
{
	start("filtered");
	start("notifying");
#ifdef __x86_64__
	start("ports");
#endif
	become("sleep");
}

/* -- memory */

static struct area *area(const char *kind, u64 pages, enum formula formula, u64 seed)
{
	struct area *a = &board->areas[__atomic_fetch_add(&board->nareas, 1, __ATOMIC_SEQ_CST)];
	char *fence = mmap(NULL, (pages + 2) * page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u64 *word = mmap(fence + page_size, pages * page_size, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), i;

	snprintf(a->kind, sizeof(a->kind), "%s", kind);
	a->pid = getpid();
	a->start = addr(word);
	a->size = pages * page_size;
	a->runs[a->nruns++] = (struct run){ 0, a->size, seed, formula };
	for (i = 0; i < a->size / 8; i++)
		word[i] = formula == MIX64 ? mix64(seed + i) : seed;
	return a;
}

static void *at(const struct area *a)
{
	return (void *)(uintptr_t)a->start;
}

static void page_out(struct area *a)
{
	int i;

	for (i = 0; i < 5; i++) {
		madvise(at(a), a->size, MADV_PAGEOUT);
		usleep(20000);
	}
	snprintf(a->attr, sizeof(a->attr), "paged-out");
}

static unsigned long number_in(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned long n = 0;

	if (f && fscanf(f, "%lu", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

/* Pages of the same content are one page. */
static void merged(void)
{
	struct area *a = area("ksm", PAGES, SAME64, 0x6b736d), *b = area("ksm", PAGES, SAME64, 0x6b736d);
	int tries;

	if (madvise(at(a), a->size, MADV_MERGEABLE) || madvise(at(b), b->size, MADV_MERGEABLE))
		return;
	put("/sys/kernel/mm/ksm/pages_to_scan", "10000");
	put("/sys/kernel/mm/ksm/run", "1");
	for (tries = 0; tries < 100 && number_in("/sys/kernel/mm/ksm/pages_sharing") < PAGES; tries++)
		usleep(100000);
	put("/sys/kernel/mm/ksm/run", "0");
}

/* Entries with the bits that tell of writes, in memory and swapped out. */
static void soft_dirty(void)
{
	struct area *clean = area("soft-clean", PAGES, MIX64, 1ULL << 40), *dirty, *out;

	put("/proc/self/clear_refs", "4");
	dirty = area("soft-dirty", PAGES, MIX64, 2ULL << 40);
	out = area("soft-dirty-out", PAGES, MIX64, 3ULL << 40);
	page_out(out);
	out = area("soft-clean-out", PAGES, MIX64, 4ULL << 40);
	put("/proc/self/clear_refs", "4");
	page_out(out);
	(void)clean;
	(void)dirty;
}

static void write_protect(int fd, const struct area *a)
{
	struct uffdio_register reg = { { a->start, a->size }, UFFDIO_REGISTER_MODE_WP, 0 };
	struct uffdio_writeprotect wp = { { a->start, a->size }, UFFDIO_WRITEPROTECT_MODE_WP };

	if (ioctl(fd, UFFDIO_REGISTER, &reg) || ioctl(fd, UFFDIO_WRITEPROTECT, &wp))
		snprintf(board->areas[a - board->areas].attr, sizeof(a->attr), "unprotected");
}

static void protected(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	int fd = (int)syscall(SYS_userfaultfd, 0);
	struct area *in = area("uffd-wp", PAGES, MIX64, 5ULL << 40), *out = area("uffd-wp-out", PAGES, MIX64, 6ULL << 40);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		return;
	write_protect(fd, in);
	write_protect(fd, out);
	page_out(out);
}

/* Guard pages, since v6.13: what they covered is gone. */
static void guarded(void)
{
	struct area *a = area("guard", PAGES, MIX64, 7ULL << 40);

	if (!madvise((char *)at(a) + 2 * page_size, 2 * page_size, MADV_GUARD_INSTALL))
		a->runs[a->nruns++] = (struct run){ 2 * page_size, 2 * page_size, 0, ZERO };
}

static void not_killed(int sig)
{
	(void)sig;
}

static void poisoned(void)
{
	struct area *a = area("poison", PAGES, MIX64, 8ULL << 40);

	signal(SIGBUS, not_killed);
	if (madvise((char *)at(a) + page_size, page_size, MADV_HWPOISON))
		snprintf(a->attr, sizeof(a->attr), "healthy");
}

/* Memory of a device: registers of the first PCI device that has some. */
static void device(void)
{
	struct area *a;
	char path[64];
	int fd = -1, slot;
	void *p = MAP_FAILED;

	for (slot = 0; slot < 32 && p == MAP_FAILED; slot++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%02x.0/resource1", slot);
		fd = open(path, O_RDWR);
		if (fd >= 0)
			p = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	}
	if (p == MAP_FAILED)
		return;
	a = &board->areas[__atomic_fetch_add(&board->nareas, 1, __ATOMIC_SEQ_CST)];
	snprintf(a->kind, sizeof(a->kind), "device");
	a->pid = getpid();
	a->start = addr(p);
	a->size = page_size;
}

static void memory(void)
{
	merged();
	soft_dirty();
	protected();
	guarded();
	poisoned();
	device();
	become("sleep");
}

/* 8 GiB, of which a page is there every 256 MiB: it starts with mix64 of its number. */
static void sparse(void)
{
	const u64 size = 8ULL << 30, step = 256ULL << 20;
	char *p = mmap(NULL, size, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u64 i;

	if (p == MAP_FAILED)
		die("sparse");
	for (i = 0; i < size / step; i++)
		*(u64 *)(p + i * step) = mix64(i);
	printf("SPARSE %d %#llx\n", getpid(), (unsigned long long)addr(p));
	fflush(stdout);
	become("sleep");
}

/* -- the 32-bit process, by the fast entry that the machine's vdso chooses */

static void fast(void)
{
	struct thread *t = rare_thread("fast");

	t->pid = t->tid = getpid();
	snprintf(t->name, sizeof(t->name), "fast32");
	t->regs = compat_regs();
	execl("/bin/fast32", "fast32", NULL);
	die("fast32");
}

/* -- the launcher */

static bool at_rest(struct thread *t)
{
	if (!t->regs.ready)
		return false;
	t->seen = task_state(t->pid, t->tid, NULL);
	return strchr(t->state->expect, t->seen) != NULL;
}

static bool all_at_rest(unsigned count)
{
	unsigned i;

	for (i = 0; i < board->nthreads; i++)
		if (!at_rest(&board->threads[i]))
			return false;
	return board->nthreads == count;
}

static void share_board(void)
{
	board = mmap(NULL, sizeof(*board), RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		die("board");
}

int main(void)
{
	bool compat = !access("/bin/fast32", X_OK);
	unsigned count = 14 + PORTS + compat, tries;

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	page_size = (u64)sysconf(_SC_PAGESIZE);
	huge_page_size = page_size / 8 * page_size;
	share_board();
	put("/proc/sys/kernel/sched_rt_runtime_us", "-1");
	spawn("lab-memory", memory);
	spawn("lab-sandbox", sandbox);
	spawn("lab-sparse", sparse);
	stop_at_entry();
	stop_at_exit();
	stop_half();
	spawn("lab-crash", crasher);
	if (compat)
		spawn("lab-fast", fast);
	for (tries = 0; tries < 300 && !all_at_rest(count - 4); tries++)
		usleep(100000);
	spawn("lab-forking", forking);
	spawn("lab-busy", busy);
	spawn("lab-busy", busy);
	for (tries = 0; tries < 100 && !all_at_rest(count); tries++)
		usleep(100000);
	if (!all_at_rest(count))
		printf("TRUTH {\"failed\":\"not all at rest: %u of %u started\"}\n", board->nthreads, count);
	print_truth();
	print_facts();
	printf("TRUTH {\"complete\":true}\n");
	fflush(stdout);
	close(open("/tmp/ready", O_CREAT | O_WRONLY, 0644));
	for (;;)
		pause();
}
