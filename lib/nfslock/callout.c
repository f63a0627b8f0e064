/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * rpc.statd's ha-callout, as callout.py (the protocol stands there), for nodes with many clients:
 * statd waits for one process for each new client, and this one starts in a millisecond.
 * It allocates nothing but the list of services, runs nothing, and writes only callout.missed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#ifndef RUN
#define RUN "/run/nfslock"
#endif
#define TIMEOUT_MS 2000
#define LIMIT_MS 30000
#define PAUSE_MS 20 /* between two attempts to reach a propagator that is being restarted */

enum state { WAITING, KEPT, MISSED, ABSENT };

struct service {
	char *name;
	int fd; /* -1 while its socket refuses */
	enum state state;
};

static struct service *services;
static nfds_t count;
static char packet[8192];
static size_t packet_size;

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

/* The service's directory becomes the current one: a relative name fits into a socket address. */
static bool enter(const struct service *service)
{
	return chdir(RUN) == 0 && chdir(service->name) == 0;
}

static void try_to_send(struct service *service)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "callout.sock" };
	int fd = -1;

	if (enter(service)) {
		fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		    send(fd, packet, packet_size, MSG_NOSIGNAL) == (ssize_t)packet_size) {
			service->fd = fd;
			return;
		}
	}
	if (errno == ENOENT || errno == ENOTDIR)
		service->state = ABSENT;
	else if (errno == EACCES || errno == EPERM)
		service->state = MISSED;
	if (fd >= 0)
		close(fd);
}

static long timeout_ms(void)
{
	char text[17] = "", *end = text;
	long value = 0;
	int fd = open("callout.timeout", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, text, sizeof(text) - 1) > 0)
			value = strtol(text, &end, 10);
		close(fd);
	}
	if (value < 1 || (*end && *end != '\n'))
		return TIMEOUT_MS;
	return value < LIMIT_MS ? value : LIMIT_MS;
}

static void take_answer(struct service *service)
{
	char answer[256];
	ssize_t size = recv(service->fd, answer, sizeof(answer), 0);

	close(service->fd);
	service->fd = -1;
	if (size > 0)
		service->state = size == 7 && !memcmp(answer, "durable", 7) ? KEPT : MISSED;
}

static long send_to_all(void)
{
	long limit = 0;
	struct dirent *entry;
	DIR *run = opendir(RUN);

	while (run && (entry = readdir(run))) {
		struct service *more, *service;

		if (entry->d_name[0] == '.')
			continue;
		more = realloc(services, (count + 1) * sizeof(*services));
		if (!more)
			break;
		services = more;
		service = &services[count];
		*service = (struct service){ .name = strdup(entry->d_name), .fd = -1 };
		if (!service->name)
			break;
		try_to_send(service);
		if (service->state == ABSENT) {
			free(service->name);
			continue;
		}
		count++;
		if (service->state == WAITING && timeout_ms() > limit)
			limit = timeout_ms();
	}
	if (run)
		closedir(run);
	return limit;
}

static void await_answers(long deadline)
{
	struct pollfd *polled = calloc(count, sizeof(*polled));

	while (polled) {
		long left = deadline - now_ms();
		bool all_sent = true, all_answered = true;

		for (nfds_t i = 0; i < count; i++) {
			bool waits = services[i].state == WAITING;

			polled[i] = (struct pollfd){ .fd = waits ? services[i].fd : -1, .events = POLLIN };
			all_answered &= !waits;
			all_sent &= !waits || services[i].fd >= 0;
		}
		if (all_answered || left <= 0)
			break;
		poll(polled, count, all_sent || left < PAUSE_MS ? (int)left : PAUSE_MS);
		for (nfds_t i = 0; i < count; i++) {
			if (polled[i].revents)
				take_answer(&services[i]);
			else if (services[i].state == WAITING && services[i].fd < 0)
				try_to_send(&services[i]);
		}
	}
	free(polled);
}

static void note(const struct service *service, const char *mon_name)
{
	char client[257];
	size_t length = 0;

	for (; mon_name[length] && length < sizeof(client) - 1; length++)
		client[length] = mon_name[length] > ' ' && mon_name[length] < 127 ? mon_name[length] : '?';
	client[length] = '\0';
	if (enter(service)) {
		int fd = open("callout.missed", O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

		if (fd >= 0) {
			if (write(fd, ".", 1) < 0)
				syslog(LOG_ERR, "%s: callout.missed: %m", service->name);
			close(fd);
		}
	}
	syslog(LOG_ERR, "%s: the propagator did not confirm the record of %s in time; its lock is "
	       "granted all the same: see `nfslock status`", service->name, client);
}

static void close_inherited(void)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, 3U, ~0U, 0U) == 0)
		return;
#endif
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
}

int main(int argc, char **argv)
{
	long began = now_ms();
	int size;

	close_inherited();
	if (argc < 4 || strcmp(argv[1], "add-client"))
		return 0;
	size = snprintf(packet, sizeof(packet), "%s%c%s%c%s", argv[1], 0, argv[2], 0, argv[3]);
	if (size < 0 || (size_t)size >= sizeof(packet))
		return 0;
	packet_size = (size_t)size;
	await_answers(began + send_to_all());
	openlog("nfslock-callout", LOG_PID, LOG_DAEMON);
	for (nfds_t i = 0; i < count; i++)
		if (services[i].state == WAITING || services[i].state == MISSED)
			note(&services[i], argv[2]);
	return 0;
}
