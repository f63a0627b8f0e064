/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The floor of the notification bench: the least that any sender must do, without keeping books.
 *
 *   floor VIP NAME NUMBER EXPECT WINDOW
 *
 * GETPORT, then SM_NOTIFY, to hosts 1 .. NUMBER of 10.8.0.0/14; ends when EXPECT have acknowledged.
 * A fixed time-out of 0.25 s for everybody, answers matched by address alone. A measure, not a tool.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { HOSTS = 1 << 18, NEW = 0, FLIGHT, DONE };
static unsigned char state[HOSTS], phase[HOSTS];
static double sent[HOSTS];
static unsigned ring[HOSTS * 4], head, tail, next[HOSTS], urgent;
static unsigned char call[2][256];
static size_t length[2] = { 56, 0 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static size_t words(unsigned char *p, int n, const unsigned *v)
{
	for (int i = 0; i < n; i++) {
		unsigned x = htonl(v[i]);
		memcpy(p + 4 * i, &x, 4);
	}
	return 4 * n;
}

int main(int argc, char **argv)
{
	int size = 8 << 20, s = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(1009) };
	unsigned number, expect, window, done = 0, flight = 0, fresh = 1;
	size_t name;
	if (argc != 6)
		return 2;
	number = atoi(argv[3]), expect = atoi(argv[4]), window = atoi(argv[5]);
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	inet_pton(AF_INET, argv[1], &a.sin_addr);
	if (bind(s, (void *)&a, sizeof a) < 0) {
		perror("bind");
		return 1;
	}
	words(call[0], 14, (unsigned[]){ 0, 0, 2, 100000, 2, 3, 0, 0, 0, 0, 100024, 1, 17, 0 });
	name = strlen(argv[2]);
	words(call[1], 11, (unsigned[]){ 0, 0, 2, 100024, 1, 6, 0, 0, 0, 0, name });
	memcpy(call[1] + 44, argv[2], name);
	length[1] = 44 + (name + 3) / 4 * 4;
	length[1] += words(call[1] + length[1], 1, (unsigned[]){ 7 });
	while (done < expect) {
		for (int k = 0; k < 64 && flight < window; k++) {
			unsigned host;
			if (urgent)
				host = next[--urgent];
			else if (fresh <= number)
				host = fresh++;
			else if (head != tail)
				host = ring[head++ % (HOSTS * 4)];
			else
				break;
			a.sin_addr.s_addr = htonl(0x0a080000 + host);
			a.sin_port = htons(phase[host] ? 662 : 111);
			words(call[phase[host]], 1, &host);
			if (sendto(s, call[phase[host]], length[phase[host]], 0, (void *)&a, sizeof a) < 0)
				continue;
			state[host] = FLIGHT;
			sent[host] = now();
			flight++;
		}
		for (;;) {
			unsigned char in[512];
			struct sockaddr_in from;
			socklen_t len = sizeof from;
			unsigned host;
			if (recvfrom(s, in, sizeof in, 0, (void *)&from, &len) < 24)
				break;
			host = ntohl(from.sin_addr.s_addr) - 0x0a080000;
			if (host >= HOSTS || state[host] == DONE)
				continue;
			flight -= state[host] == FLIGHT;
			if (phase[host]) {
				state[host] = DONE;
				done++;
			} else {
				state[host] = NEW;
				phase[host] = 1;
				next[urgent++] = host;
			}
		}
		if (flight && (flight >= window || (!urgent && head == tail && fresh > number))) {
			struct pollfd p = { s, POLLIN, 0 };
			if (!poll(&p, 1, 50))
				for (unsigned host = 1; host <= number; host++)
					if (state[host] == FLIGHT && sent[host] + 0.25 < now()) {
						state[host] = NEW;
						flight--;
						ring[tail++ % (HOSTS * 4)] = host;
					}
		}
	}
	return 0;
}
