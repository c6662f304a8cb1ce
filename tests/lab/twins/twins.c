/* Two children of one making: one dies with a core, the other stays for gcore to write. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void *sleeper(void *arg)
{
	for (;;)
		ppoll(NULL, 0, NULL, NULL);
	return arg;
}

static pid_t twin(const char *name)
{
	pid_t pid = fork();
	pthread_t id;

	if (pid)
		return pid;
	prctl(PR_SET_NAME, name);
	pthread_create(&id, NULL, sleeper, NULL);
	sleeper(NULL);
	return 0;
}

int main(void)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);
	pid_t dead, live;

	setrlimit(RLIMIT_CORE, &all);
	if (write(fd, "/tmp/core", 9) != 9)
		return 1;
	dead = twin("twin-dead");
	live = twin("twin-live");
	sleep(2);
	kill(dead, SIGABRT);
	sleep(2);
	printf("TWINS %d %d\n", dead, live);
	return 0;
}
