/* Sends back what it gets, over TCP and UDP at port 7000, by IPv4 and IPv6. */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];

static int open_socket(int type)
{
    struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(7000) };
    int no = 0, yes = 1, fd = socket(AF_INET6, type, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no) ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) ||
        bind(fd, (struct sockaddr *)&any, sizeof any)) {
        perror("socket");
        _exit(1);
    }
    return fd;
}

static void serve_datagrams(int fd)
{
    for (;;) {
        struct sockaddr_in6 from;
        socklen_t length = sizeof from;
        ssize_t count = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
        if (count >= 0)
            sendto(fd, buffer, count, 0, (struct sockaddr *)&from, length);
    }
}

static void serve_stream(int fd)
{
    ssize_t count;
    while ((count = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0, step; done < count; done += step)
            if ((step = write(fd, buffer + done, count - done)) <= 0)
                return;
}

int main(void)
{
    int datagrams = open_socket(SOCK_DGRAM), streams = open_socket(SOCK_STREAM);
    signal(SIGCHLD, SIG_IGN);
    if (listen(streams, 128))
        return 1;
    puts("up");
    fflush(stdout);
    if (fork() == 0)
        serve_datagrams(datagrams);
    for (;;) {
        int fd = accept(streams, NULL, NULL);
        if (fd < 0)
            continue;
        if (fork() == 0) {
            serve_stream(fd);
            _exit(0);
        }
        close(fd);
    }
}
