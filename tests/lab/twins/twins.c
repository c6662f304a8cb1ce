/* Two children of one making, alike in threads and memory: one dies with a core, the other stays for gcore to write. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 8
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static size_t page;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *sleeper(void *arg)
{
	for (;;)
		ppoll(NULL, 0, NULL, NULL);
	return arg;
}

static void on_signal(int sig)
{
	sleeper(&sig);
}

static void *signalled(void *arg)
{
	stack_t alt = { .ss_sp = arg, .ss_size = PAGES * page };
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };

	if (sigaltstack(&alt, NULL) || sigaction(SIGUSR1, &act, NULL))
		die("sigaltstack");
	raise(SIGUSR1);
	return NULL;
}

static void *filtered(void *arg)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { 1, &allow };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
	return sleeper(arg);
}

/* A read that never ends, handed to a worker. The ring stays mapped. Not every kernel has it. */
static void *ring(void *arg)
{
	struct io_uring_params p = { 0 };
	struct io_uring_sqe *sqe;
	unsigned *sq;
	int fds[2], fd = (int)syscall(__NR_io_uring_setup, 4, &p);

	if (fd < 0 || pipe(fds))
		return sleeper(arg);
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, RW, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	sqe = mmap(NULL, p.sq_entries * sizeof(*sqe), RW, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || sqe == MAP_FAILED)
		die("ring");
	*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_READ, .flags = IOSQE_ASYNC, .fd = fds[0],
				      .addr = (uintptr_t)arg, .len = 1 };
	sq[p.sq_off.array / 4] = 0;
	__atomic_store_n(&sq[p.sq_off.tail / 4], 1, __ATOMIC_RELEASE);
	syscall(__NR_io_uring_enter, fd, 1, 0, 0, NULL, 0);
	return sleeper(arg);
}

static void start(void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t id;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	if (pthread_create(&id, &attr, run, arg))
		die("pthread_create");
}

static void fill(char *p, int pages, int seed)
{
	size_t i;

	for (i = 0; i < (size_t)pages * page; i++)
		p[i] = (char)(i * 7 + i / page + (size_t)seed);
}

static char *map(int flags, int fd)
{
	char *p = mmap(NULL, PAGES * page, RW, flags, fd, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static char *filled(int flags, int seed)
{
	char *p = map(flags, -1);

	fill(p, PAGES, seed);
	return p;
}

static int make_file(void)
{
	char *content = filled(PRIVATE, 1);
	int fd = open("/tmp/file", O_RDWR | O_CREAT, 0600);

	if (fd < 0 || write(fd, content, PAGES * page) < 0)
		die("/tmp/file");
	munmap(content, PAGES * page);
	return fd;
}

static void map_file(int fd)
{
	fill(map(MAP_PRIVATE, fd) + page, 2, 2); /* some of the file, some of its own */
	map(MAP_SHARED, fd)[0] = 3;
	map(MAP_PRIVATE, fd); /* not touched */
	mprotect(map(MAP_PRIVATE, fd), PAGES * page, PROT_READ | PROT_EXEC);
}

static void map_memory(int fd)
{
	filled(MAP_SHARED | MAP_ANONYMOUS, 4);
	madvise(filled(PRIVATE, 5), PAGES * page, MADV_DONTDUMP);
	mprotect(filled(PRIVATE, 6), PAGES * page, PROT_NONE);
	mprotect(filled(PRIVATE, 7), PAGES * page, PROT_READ);
	mlock(filled(PRIVATE, 8), PAGES * page);
	madvise(filled(PRIVATE, 9) + page, 2 * page, MADV_GUARD_INSTALL); /* since v6.13 */
	memset(map(PRIVATE, -1) + page, 0, page); /* zeros, and never touched */
	mremap(map(PRIVATE | MAP_NORESERVE, -1), PAGES * page, 3 * page, 0);
	map_file(fd);
}

static pid_t twin(const char *name, int fd)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_NAME, name);
	map_memory(fd);
	start(sleeper, NULL);
	start(signalled, filled(PRIVATE, 10));
	start(filtered, NULL);
	start(ring, filled(PRIVATE, 11));
	sleeper(NULL);
	return 0;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

int main(void)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	pid_t dead, live;
	int fd;

	page = (size_t)sysconf(_SC_PAGESIZE);
	setrlimit(RLIMIT_CORE, &all);
	put("/proc/sys/kernel/core_pattern", "/tmp/core");
	put("/proc/self/coredump_filter", "0x7f");
	fd = make_file();
	dead = twin("twin-dead", fd);
	live = twin("twin-live", fd);
	sleep(3);
	kill(dead, SIGABRT);
	sleep(3);
	printf("TWINS %d %d\n", dead, live);
	return 0;
}
