/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The answering side of the bench: rpcbind and statd of all hosts in a range at once.
 *
 *   answerer EXPECT DEAD LOSS RTT
 *
 * EXPECT: say "complete" when so many hosts were notified; DEAD: percentage of hosts that answer
 * nothing (see dead()); LOSS: percentage of datagrams lost, each way; RTT: milliseconds by which
 * answers are late. A host's number is the low 18 bits of its address. Says "ready" first, and on
 * SIGTERM one line of JSON; times are CLOCK_MONOTONIC. answerer.py does the same, slower.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

enum { HOSTS = 1 << 18, STATD = 662, LATE = 1 << 16 };
struct reply {
	double due;
	int sock, family;
	socklen_t peer_len;
	struct sockaddr_storage peer;
	union { struct in_addr v4; struct in6_addr v6; } self;
	size_t len;
	unsigned char data[64];
};

static double first[2][HOSTS], last;
static unsigned long notified, notifies, lookups, sources[2];
static long lowest = -1, highest = -1;
static struct in6_addr source[2];
static volatile sig_atomic_t stop;
static struct reply late[LATE];
static unsigned head, tail;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void put(unsigned char *p, unsigned v) { v = htonl(v); memcpy(p, &v, 4); }
static unsigned get(const unsigned char *p) { unsigned v; memcpy(&v, p, 4); return ntohl(v); }
static int dead(unsigned host, unsigned percent) { return host * 2654435761u % 100 < percent; }
static void on_term(int n) { (void)n; stop = 1; }

static int listen_on(int family, int port)
{
	int one = 1, size = 64 << 20, s = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	if (family == AF_INET6) {
		setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
		setsockopt(s, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one);
		/* A whole prefix is local by a route: no such address is on an interface. */
		setsockopt(s, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one);
	} else
		setsockopt(s, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
	if (bind(s, family == AF_INET ? (void *)&a4 : (void *)&a6,
		 family == AF_INET ? sizeof a4 : sizeof a6) < 0) {
		perror("bind");
		exit(1);
	}
	return s;
}

static void transmit(struct reply *r)
{
	char control[64] = { 0 };
	struct iovec iov = { r->data, r->len };
	struct msghdr m = { .msg_name = &r->peer, .msg_namelen = r->peer_len, .msg_iov = &iov,
			    .msg_iovlen = 1, .msg_control = control };
	struct cmsghdr *c = (void *)control;
	if (r->family == AF_INET) {
		struct in_pktinfo p = { .ipi_spec_dst = r->self.v4 };
		*c = (struct cmsghdr){ CMSG_LEN(sizeof p), IPPROTO_IP, IP_PKTINFO };
		memcpy(CMSG_DATA(c), &p, sizeof p);
		m.msg_controllen = CMSG_SPACE(sizeof p);
	} else {
		struct in6_pktinfo p = { .ipi6_addr = r->self.v6 };
		*c = (struct cmsghdr){ CMSG_LEN(sizeof p), IPPROTO_IPV6, IPV6_PKTINFO };
		memcpy(CMSG_DATA(c), &p, sizeof p);
		m.msg_controllen = CMSG_SPACE(sizeof p);
	}
	sendmsg(r->sock, &m, 0);
}

static void count(int v6, unsigned host, struct reply *r, unsigned state)
{
	struct in6_addr from = { 0 };
	if (v6)
		from = ((struct sockaddr_in6 *)&r->peer)->sin6_addr;
	else
		memcpy(&from, &((struct sockaddr_in *)&r->peer)->sin_addr, 4);
	if (!sources[v6] || memcmp(&from, &source[v6], sizeof from))
		sources[v6]++;
	source[v6] = from;
	if (lowest < 0 || state < lowest)
		lowest = state;
	if ((long)state > highest)
		highest = state;
	notifies++;
	if (!first[v6][host]) {
		first[v6][host] = last = now();
		notified++;
	}
}

/* One request. Returns 0 when there is none. */
static int serve(int sock, int family, unsigned deads, double loss, double delay)
{
	static struct reply r;
	unsigned char in[1500];
	char control[256];
	struct iovec iov = { in, sizeof in };
	struct msghdr m = { .msg_name = &r.peer, .msg_namelen = sizeof r.peer, .msg_iov = &iov,
			    .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	ssize_t n = recvmsg(sock, &m, 0);
	unsigned host = 0, prog, name;
	if (n < 0)
		return 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (family == AF_INET && c->cmsg_type == IP_PKTINFO) {
			r.self.v4 = ((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr;
			host = ntohl(r.self.v4.s_addr) % HOSTS;
		} else if (family == AF_INET6 && c->cmsg_type == IPV6_PKTINFO) {
			r.self.v6 = ((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
			host = get(&r.self.v6.s6_addr[12]) % HOSTS;
		}
	if (n < 40 || dead(host, deads) || drand48() * 100 < loss)
		return 1;
	prog = get(in + 12);
	memset(r.data, 0, sizeof r.data);
	memcpy(r.data, in, 4);
	put(r.data + 4, 1);
	r.len = 24;
	if (prog == 100000) {
		lookups++;
		if (family == AF_INET) {
			put(r.data + 24, STATD);
			r.len = 28;
		} else {
			put(r.data + 24, 8);
			memcpy(r.data + 28, "::.2.150", 8);
			r.len = 36;
		}
	} else if (get(in + 20) == 6) {
		name = (get(in + 40) + 3) & ~3u;
		if (n < 48 + (ssize_t)name)
			return 1;
		count(family == AF_INET6, host, &r, get(in + 44 + name));
	}
	r.sock = sock;
	r.family = family;
	r.peer_len = m.msg_namelen;
	if (drand48() * 100 < loss)
		return 1;
	if (delay > 0 && tail - head < LATE) {
		r.due = now() + delay;
		late[tail++ % LATE] = r;
	} else
		transmit(&r);
	return 1;
}

int main(int argc, char **argv)
{
	struct pollfd fds[4];
	int families[4] = { AF_INET, AF_INET, AF_INET6, AF_INET6 };
	unsigned long expect;
	if (argc != 5)
		return 2;
	expect = strtoul(argv[1], NULL, 10);
	signal(SIGTERM, on_term);
	srand48(7);
	for (int i = 0; i < 4; i++)
		fds[i] = (struct pollfd){ listen_on(families[i], i % 2 ? STATD : 111), POLLIN, 0 };
	puts("ready");
	fflush(stdout);
	while (!stop) {
		int wait = 100;
		while (head != tail && late[head % LATE].due <= now())
			transmit(&late[head++ % LATE]);
		if (head != tail)
			wait = 1;
		if (poll(fds, 4, wait) < 0 && errno != EINTR)
			break;
		for (int i = 0; i < 4; i++)
			for (int k = 0; k < 64; k++)
				if (!serve(fds[i].fd, families[i], atoi(argv[2]), atof(argv[3]),
					   atof(argv[4]) / 1000))
					break;
		if (notified >= expect) {
			puts("complete");
			fflush(stdout);
			expect = ~0ul;
		}
	}
	printf("{\"notified\": %lu, \"last\": %.6f, \"notifies\": %lu, \"lookups\": %lu, "
	       "\"sources\": [%lu, %lu], \"states\": [%ld, %ld]}\n",
	       notified, last, notifies, lookups, sources[0], sources[1], lowest, highest);
	return 0;
}
