/* The states threads are parked in. A new one: a row in states[], a setup for its system call, a line in main.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "lab.h"

__thread u64 tls_marker;

static u64 addr(const void *p)
{
	return (u64)(uintptr_t)p;
}

static int idle_pipe(void)
{
	int fds[2];

	if (pipe(fds))
		die("pipe");
	return fds[0];
}

/* The rest of the argument registers keep what they are filled with. */
#define CALL(t, nr, ...)                                                                       \
	set_call(&(t)->regs, nr, (u64[]){ 0, ##__VA_ARGS__ } + 1, sizeof((u64[]){ 0, ##__VA_ARGS__ }) / 8 - 1)

static void set_futex(struct thread *t)
{
	CALL(t, SYS_futex, addr(&t->word), FUTEX_WAIT, 0, 0);
}

static void set_read(struct thread *t)
{
	CALL(t, SYS_read, (u64)idle_pipe(), addr(t->scratch), 1);
}

/* Architectures that came late have only the calls with a timespec and a signal mask. */
static void set_poll(struct thread *t)
{
	struct pollfd *p = (struct pollfd *)t->scratch;

	*p = (struct pollfd){ .fd = idle_pipe(), .events = POLLIN };
#ifdef SYS_poll
	CALL(t, SYS_poll, addr(p), 1, (u64)-1);
#else
	CALL(t, SYS_ppoll, addr(p), 1, 0, 0, 0);
#endif
}

static void set_epoll(struct thread *t)
{
	int ep = epoll_create1(0), fd = idle_pipe();
	struct epoll_event e = { .events = EPOLLIN };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
#ifdef SYS_epoll_wait
	CALL(t, SYS_epoll_wait, (u64)ep, addr(t->scratch), 1, (u64)-1);
#else
	CALL(t, SYS_epoll_pwait, (u64)ep, addr(t->scratch), 1, (u64)-1, 0, 0);
#endif
}

static void set_nanosleep(struct thread *t)
{
	struct timespec *ts = (struct timespec *)t->scratch;

	*ts = (struct timespec){ .tv_sec = 1000000 };
	CALL(t, SYS_nanosleep, addr(ts), 0);
}

static void set_pause(struct thread *t)
{
#ifdef SYS_pause
	CALL(t, SYS_pause);
#else
	CALL(t, SYS_ppoll, 0, 0, 0, 0, 0);
#endif
}

static void set_sigsuspend(struct thread *t)
{
	memset(t->scratch, 0, 8);
	CALL(t, SYS_rt_sigsuspend, addr(t->scratch), 8);
}

static void set_select(struct thread *t)
{
	fd_set *set = (fd_set *)t->scratch;
	int fd = idle_pipe();

	FD_ZERO(set);
	FD_SET(fd, set);
#ifdef SYS_select
	CALL(t, SYS_select, (u64)fd + 1, addr(set), 0, 0, 0);
#else
	CALL(t, SYS_pselect6, (u64)fd + 1, addr(set), 0, 0, 0, 0);
#endif
}

static void set_accept(struct thread *t)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(4242) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 5))
		die("listen");
#ifdef SYS_accept
	CALL(t, SYS_accept, (u64)fd, 0, 0);
#else
	CALL(t, SYS_accept4, (u64)fd, 0, 0, 0);
#endif
}

static void set_recv(struct thread *t)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, fds))
		die("socketpair");
	CALL(t, SYS_recvfrom, (u64)fds[0], addr(t->scratch), 16, 0, 0, 0);
}

static void set_msgrcv(struct thread *t)
{
	int id = msgget(0x6c6162, IPC_CREAT | 0600);

	if (id < 0)
		die("msgget");
	CALL(t, SYS_msgrcv, (u64)id, addr(t->scratch), 16, 0, 0);
}

static void set_stop(struct thread *t)
{
	CALL(t, SYS_kill, (u64)getpid(), SIGSTOP);
}

static void set_vfork(struct thread *t)
{
#ifdef SYS_vfork
	CALL(t, SYS_vfork);
#else
	CALL(t, SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
#endif
}

static void set_fault(struct thread *t)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = (int)syscall(SYS_userfaultfd, 0);
	void *page = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	reg.range.start = addr(page);
	reg.range.len = page_size;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		die("userfaultfd");
	set_argument(&t->regs, addr(page));
}

static void set_nothing(struct thread *t)
{
	(void)t;
}

static struct thread *signalled;

/* Runs on the alternate stack and blocks there. */
static void on_signal(int sig)
{
	(void)sig;
	park_handler(&signalled->regs);
	die("park_handler");
}

static void set_signal(struct thread *t)
{
	t->outer = t->regs;
	fill_regs(t, &t->outer, 1);
	set_call(&t->outer, SYS_tgkill, (u64[]){ (u64)t->pid, (u64)t->tid, SIGUSR1 }, 3);
	set_read(t);
}

static void signal_body(struct thread *t)
{
	stack_t alt = { .ss_size = 65536 };
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };

	alt.ss_sp = mmap(NULL, alt.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t->altstack = addr(alt.ss_sp);
	t->altstack_size = alt.ss_size;
	signalled = t;
	if (sigaltstack(&alt, NULL) || sigaction(SIGUSR1, &act, NULL))
		die("sigaltstack");
	park_raise(&t->outer);
}

static pthread_mutex_t never_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

/* Blocked inside the C library: the registers are its own, the frames above are ours. */
static void wait_cond(struct thread *t)
{
	pthread_mutex_lock(&never_lock);
	t->regs.ready = 1;
	for (;;)
		pthread_cond_wait(&never, &never_lock);
}

#define PARK(n) park_##n, "park_" #n

const struct state states[] = {
	{ "futex", PARK(futex), set_futex, BY_SYSCALL, "S", .body = NULL },
	{ "pipe", PARK(read), set_read, BY_SYSCALL, "S", .body = NULL },
	{ "poll", PARK(poll), set_poll, BY_SYSCALL, "S", .body = NULL },
	{ "epoll", PARK(epoll), set_epoll, BY_SYSCALL, "S", .body = NULL },
	{ "nanosleep", PARK(nanosleep), set_nanosleep, BY_SYSCALL, "S", .body = NULL },
	{ "pause", PARK(pause), set_pause, BY_SYSCALL, "S", .body = NULL },
	{ "sigsuspend", PARK(sigsuspend), set_sigsuspend, BY_SYSCALL, "S", .body = NULL },
	{ "select", PARK(select), set_select, BY_SYSCALL, "S", .body = NULL },
	{ "accept", PARK(accept), set_accept, BY_SYSCALL, "S", .body = NULL },
	{ "recv", PARK(recv), set_recv, BY_SYSCALL, "S", .body = NULL },
	{ "msgrcv", PARK(msgrcv), set_msgrcv, BY_SYSCALL, "S", .body = NULL },
	{ "signal", PARK(handler), set_signal, BY_SYSCALL, "S", .body = signal_body },
	{ "stopped", PARK(stop), set_stop, BY_SYSCALL_DONE, "T", .body = NULL },
	{ "traced", PARK(stop), set_stop, BY_SYSCALL_DONE, "t", .body = NULL },
	{ "vfork", PARK(vfork), set_vfork, BY_SYSCALL, "D", .body = NULL },
	{ "fault", PARK(fault), set_fault, BY_EXCEPTION, "SD", .body = NULL },
	{ "libc-cond", NULL, "wait_cond", set_nothing, BY_LIBC, "S", .body = wait_cond },
	{ "spin", PARK(spin), set_nothing, BY_EXCEPTION, "R", .body = NULL, .cpu = 2, .nice = 0 },
	{ "preempted", PARK(spin), set_nothing, BY_EXCEPTION, "R", .body = NULL, .cpu = 2, .nice = 10 },
	{ "compat", NULL, "_start", set_nothing, BY_COMPAT, "S", .body = NULL },
	{ .name = NULL },
};

static const struct state *state_named(const char *name)
{
	const struct state *s;

	for (s = states; s->name; s++)
		if (!strcmp(s->name, name))
			return s;
	die(name);
	return NULL;
}

struct thread *new_thread(const char *state)
{
	unsigned index = __atomic_fetch_add(&board->nthreads, 1, __ATOMIC_SEQ_CST);
	struct thread *t = &board->threads[index];

	if (index >= MAX_THREADS)
		die("too many threads");
	t->index = index;
	t->seen = '?';
	t->state = state_named(state);
	return t;
}

__attribute__((noipa)) static long level3(struct thread *t)
{
	if (t->state->body)
		t->state->body(t);
	else
		t->state->park(&t->regs);
	die(t->state->name);
	return (long)t->index;
}

__attribute__((noipa)) static long level2(struct thread *t)
{
	return level3(t) + 1;
}

__attribute__((noipa)) static long level1(struct thread *t)
{
	return level2(t) + 1;
}

static void pin(struct thread *t)
{
	cpu_set_t set;

	if (!t->state->cpu)
		return;
	CPU_ZERO(&set);
	CPU_SET(t->state->cpu - 1, &set);
	sched_setaffinity(0, sizeof(set), &set);
	setpriority(PRIO_PROCESS, (id_t)t->tid, t->state->nice);
}

static void identify(struct thread *t)
{
	t->pid = getpid();
	t->tid = (pid_t)syscall(SYS_gettid);
	snprintf(t->name, sizeof(t->name), "lab-%.11s", t->state->name);
	prctl(PR_SET_NAME, t->name);
	read_bases(t);
	tls_marker = t->tls_value = mix64(0x715 + t->index);
	t->tls_addr = addr(&tls_marker);
	t->vec_seed = 0x3ec000000000ULL + ((u64)t->index << 16);
}

/* Ready to park: who it is, then registers, then what its system call needs. */
void *thread_main(void *arg)
{
	struct thread *t = arg;

	identify(t);
	pin(t);
	fill_regs(t, &t->regs, 0);
	t->state->setup(t);
	level1(t);
	return NULL;
}

void start_thread_in(const char *state)
{
	pthread_t id;

	if (pthread_create(&id, NULL, thread_main, new_thread(state)))
		die("pthread_create");
}

/* This process becomes the 32-bit one; compat_regs() says what compat/compat32.S loads. */
void become_compat(void)
{
	struct thread *t = new_thread("compat");

	t->pid = t->tid = getpid();
	snprintf(t->name, sizeof(t->name), "compat32");
	t->regs = compat_regs();
	execl("/bin/compat32", "compat32", NULL);
	die("compat32");
}

static void note_process(const char *role, pid_t pid)
{
	struct process *p = &board->processes[__atomic_fetch_add(&board->nprocesses, 1, __ATOMIC_SEQ_CST)];

	snprintf(p->role, sizeof(p->role), "%s", role);
	p->pid = pid;
}

pid_t spawn(const char *role, void (*run)(void))
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		prctl(PR_SET_NAME, role);
		run();
		_exit(0);
	}
	note_process(role, pid);
	return pid;
}
