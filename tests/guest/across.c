/*
 * Does what it reads, one "VERB PATH" a line, and says by number what came of it: locks and sockets, of which
 * the other end is outside. What it has locked and bound stays until "drop".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST = 64 };

static int held[MOST], count;

static const char *why(long result) {
    return result < 0 ? strerrorname_np(errno) : "ok";
}

static long record(int fd, int command, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
    return fcntl(fd, command, &lock);
}

static long locked(const char *path, const char *verb) {
    int fd = open(path, O_RDWR | O_CREAT, 0666);
    if (fd < 0) return -1;
    held[count++ % MOST] = fd;
    if (!strcmp(verb, "flock")) return flock(fd, LOCK_EX | LOCK_NB);
    if (!strcmp(verb, "flock-shared")) return flock(fd, LOCK_SH | LOCK_NB);
    if (!strcmp(verb, "flock-wait")) return flock(fd, LOCK_EX);
    if (!strcmp(verb, "record")) return record(fd, F_SETLK, F_WRLCK);
    if (!strcmp(verb, "record-shared")) return record(fd, F_SETLK, F_RDLCK);
    if (!strcmp(verb, "record-wait")) return record(fd, F_SETLKW, F_WRLCK);
    if (!strcmp(verb, "ofd")) return record(fd, F_OFD_SETLK, F_WRLCK);
    if (!strcmp(verb, "ofd-wait")) return record(fd, F_OFD_SETLKW, F_WRLCK);
    errno = EINVAL;
    return -1;
}

static long bound(const char *path, int type, int call) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, type, 0);
    held[count++ % MOST] = fd;
    if (call) return connect(fd, (void *)&address, sizeof address);
    if (bind(fd, (void *)&address, sizeof address)) return -1;
    return type == SOCK_STREAM ? listen(fd, 4) : 0;
}

int main(void) {
    char line[512], verb[32], path[400];
    int line_number = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%31s %399s", verb, path) < 1) continue;
        long result = 0;
        errno = 0;
        if (!strcmp(verb, "drop")) {
            while (count) close(held[--count % MOST]);
        } else if (!strcmp(verb, "listen")) {
            result = bound(path, SOCK_STREAM, 0);
        } else if (!strcmp(verb, "connect")) {
            result = bound(path, SOCK_STREAM, 1);
        } else if (!strcmp(verb, "listen-datagram")) {
            result = bound(path, SOCK_DGRAM, 0);
        } else if (!strcmp(verb, "connect-datagram")) {
            result = bound(path, SOCK_DGRAM, 1);
        } else {
            result = locked(path, verb);
        }
        printf("%d %s: %s\n", ++line_number, verb, why(result));
    }
    return 0;
}
