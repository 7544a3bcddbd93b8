/* PID 1 of a guest that says what /script tells it to. A step of the script is a letter, two numbers of
 * four bytes and as many bytes as the first number says ('s', 'c'):
 *
 *   w N 0   read N frames of the host
 *   s L T   send the L bytes T times on the control stream
 *   c L P   connect to the host's port P, send the L bytes there and end
 *   x 0 0   close the control stream
 *
 * After the last one it is silent. */

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int connected(uint32_t port)
{
    struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port };
    int stream = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (stream < 0 || connect(stream, (void *)&host, sizeof host))
        for (;;)
            pause();
    return stream;
}

static int get(int stream, void *to, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t got = read(stream, (char *)to + done, count - done);
        if (got <= 0)
            return 0;
        done += got;
    }
    return 1;
}

static int put(int stream, const void *from, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t sent = send(stream, (const char *)from + done, count - done, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        done += sent;
    }
    return 1;
}

static int frame_comes(int stream)
{
    uint32_t length;
    char *bytes;
    int came = get(stream, &length, sizeof length) && (bytes = malloc(length)) != NULL;
    if (!came)
        return 0;
    came = get(stream, bytes, length);
    free(bytes);
    return came;
}

int main(void)
{
    int script = open("/script", O_RDONLY), control = connected(1024);
    struct { char what; uint32_t one, two; } __attribute__((packed)) step;
    while (get(script, &step, sizeof step)) {
        char *bytes = NULL;
        if (step.what != 'w' && step.one && (!(bytes = malloc(step.one)) || !get(script, bytes, step.one)))
            break;
        if (step.what == 'w')
            for (uint32_t n = 0; n < step.one && frame_comes(control); n++)
                ;
        else if (step.what == 's')
            for (uint32_t n = 0; n < step.two && put(control, bytes, step.one); n++)
                ;
        else if (step.what == 'c') {
            int stream = connected(step.two);
            put(stream, bytes, step.one);
            shutdown(stream, SHUT_WR);
        } else {
            close(control);
            control = -1;
        }
        free(bytes);
    }
    for (;;)
        pause();
}
