/* The least a client can do: epoll, recv, clock_gettime, and the next request when a response has ended.
 * Parses nothing, keeps nothing. What a load generator costs above this is its own.
 *
 *     cc -O2 -o floor floor.c && ./floor HOST PORT CONCURRENCY REQUESTS REQUEST_FILE
 *
 * REQUEST_FILE holds the bytes of one whole HTTP request. Prints: reads bytes user_us system_us
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char request[1 << 20];
static size_t request_bytes;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_request(int fd) {
    if (send(fd, request, request_bytes, 0) != (ssize_t)request_bytes) fail("send");
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "floor HOST PORT CONCURRENCY REQUESTS REQUEST_FILE\n"), 2;
    int concurrency = atoi(argv[3]);
    long total = atol(argv[4]), started = 0, ended = 0, reads = 0, bytes = 0, checksum = 0;
    FILE *file = fopen(argv[5], "rb");
    if (!file) fail(argv[5]);
    request_bytes = fread(request, 1, sizeof request, file);
    fclose(file);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    int set = epoll_create1(0), one = 1, *fds = calloc(concurrency, sizeof *fds);
    for (int i = 0; i < concurrency; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fds[i], (struct sockaddr *)&address, sizeof address)) fail("connect");
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fds[i]};
        epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event);
    }
    for (int i = 0; i < concurrency && started < total; i++, started++) send_request(fds[i]);
    struct epoll_event ready[256];
    char buffer[4096];
    while (ended < total) {
        int n_ready = epoll_wait(set, ready, 256, 5000);
        if (n_ready <= 0) return fprintf(stderr, "nothing came for 5 s: %ld of %ld ended\n", ended, total), 1;
        for (int i = 0; i < n_ready; i++) {
            ssize_t n = recv(ready[i].data.fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (n <= 0) {
                if (n < 0 && errno == EAGAIN) continue;
                return fprintf(stderr, "the server closed a connection\n"), 1;
            }
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            checksum += now.tv_nsec;
            reads++;
            bytes += n;
            if (n >= 5 && !memcmp(buffer + n - 5, "0\r\n\r\n", 5)) {
                ended++;
                if (started < total) started++, send_request(ready[i].data.fd);
            }
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%ld %ld %ld %ld %ld\n", reads, bytes, used.ru_utime.tv_sec * 1000000L + used.ru_utime.tv_usec,
           used.ru_stime.tv_sec * 1000000L + used.ru_stime.tv_usec, checksum & 1);
    return 0;
}
