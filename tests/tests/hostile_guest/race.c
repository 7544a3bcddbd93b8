/* A program of a guest that races with one of the host over names of a share. `d` there is a directory,
 * `out` a symbolic link to one beside the share; the host swaps the two without end, and so does this
 * program, by the guest's own kernel. Every way in is tried at `d`, and whatever is read is looked at.
 * After the seconds of its argument it says how much it has done and seen. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static const char *const places[] = {
    "d", "out", "d/..", "out/..", "d/sub/../..", "m", "m/..", "hard", "d/out", "moved",
};
static volatile int over;
static unsigned long tried, reached, secrets;

static void look(int file)
{
    char text[64] = { 0 };
    if (read(file, text, sizeof text - 1) > 0) {
        reached++;
        if (strstr(text, "canary"))
            secrets++;
    }
    close(file);
}

static void visit(const char *place, unsigned n)
{
    char path[256], other[256];
    snprintf(path, sizeof path, "/r/%s/file", place);
    int file = open(path, O_RDONLY);
    if (file >= 0)
        look(file);
    file = open(path, O_RDWR);
    if (file >= 0) {
        if (pwrite(file, "taken over", 10, 0) < 0)
            errno = 0;
        look(file);
    }
    snprintf(path, sizeof path, "/r/%s/new-%u", place, n % 8);
    file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0666);
    if (file >= 0)
        close(file);
    snprintf(other, sizeof other, "/r/%s/file", place);
    if (n % 3 == 0 && link(other, path) == 0)
        reached++;
    if (n % 5 == 0)
        truncate(other, 1);
    chmod(other, 04777);
    chown(other, 7, 7);
    setxattr(other, "user.taken", "over", 4, 0);
    if (n % 7 == 0)
        rename(path, other);
    unlink(path);
    snprintf(path, sizeof path, "/r/%s/dir-%u", place, n % 4);
    mkdir(path, 0777);
    rename(path, "/r/moved");
    rmdir("/r/moved");
    rmdir(path);
    tried++;
}

static void *swap(void *unused)
{
    while (!over) {
        renameat2(AT_FDCWD, "/r/d", AT_FDCWD, "/r/out", RENAME_EXCHANGE);
        unlink("/r/hard");
        link("/r/out", "/r/hard");
    }
    return unused;
}

/* A bind mount of what is swapped, and a way up out of it. */
static void *bind(void *unused)
{
    mkdir("/r/m", 0777);
    for (unsigned n = 0; !over; n++) {
        if (mount("/r/d", "/r/m", NULL, MS_BIND, NULL) == 0) {
            if (chdir("/r/m/sub") == 0) {
                int file = open("../../../canary/file", O_RDONLY);
                if (file >= 0)
                    look(file);
                file = open("../file", O_RDONLY);
                if (file >= 0)
                    look(file);
            }
            if (chdir("/") == 0)
                umount2("/r/m", MNT_DETACH);
        }
        tried++;
    }
    return unused;
}

int main(int count, char **words)
{
    pthread_t threads[2];
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    pthread_create(&threads[0], NULL, swap, NULL);
    pthread_create(&threads[1], NULL, bind, NULL);
    for (unsigned n = 0;; n++) {
        visit(places[n % (sizeof places / sizeof *places)], n / 3);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - began.tv_sec >= (count > 1 ? atoi(words[1]) : 1))
            break;
    }
    over = 1;
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    printf("tried %lu reached %lu secrets %lu\n", tried, reached, secrets);
    return 0;
}
