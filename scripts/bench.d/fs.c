/*
 * fs DIRECTORY guest|host: works on files in DIRECTORY and says for each kind of work how many
 * operations it was and how many nanoseconds it took: "result NAME OPERATIONS NANOSECONDS".
 *
 * `guest` drops the pages of a file before it is read, so that each read asks the server; on the host
 * that would read the disk, which is not what is compared.
 *
 * As /init it is the first process of a virtual machine whose one file system is shared with the tag
 * "share": it mounts and enters that, works in /work and ends the machine.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 10000, BLOCK = 4096, PIECE = 1 << 20, PIECES = 64, READS = 1024 };

/* A server's answers about names and attributes hold for a second at most. */
enum { EXPIRY_SECONDS = 2 };

static char buffer[PIECE];
static int in_guest;

static void must(int good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void tell(const char *name, int operations, uint64_t began) {
    uint64_t took = now() - began;
    printf("result %s %d %llu\n", name, operations, (unsigned long long)took);
    fflush(stdout);
}

static int open_cold(const char *path) {
    int fd = open(path, O_RDONLY);
    must(fd >= 0, path);
    if (in_guest) must(!posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), "fadvise");
    return fd;
}

static void data(void) {
    memset(buffer, 'x', sizeof buffer);
    int fd = open("data", O_CREAT | O_EXCL | O_WRONLY, 0644);
    must(fd >= 0, "data");
    uint64_t began = now();
    for (int i = 0; i < PIECES; i++) must(write(fd, buffer, PIECE) == PIECE, "write");
    tell("write_1m", PIECES, began);
    must(!fsync(fd) && !close(fd), "fsync");

    fd = open_cold("data");
    began = now();
    for (int i = 0; i < PIECES; i++) must(read(fd, buffer, PIECE) == PIECE, "read");
    tell("read_1m", PIECES, began);
    close(fd);

    fd = open_cold("data");
    must(!posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), "fadvise");
    began = now();
    /* Each block at most once: an odd step goes through all of a power of two. */
    for (unsigned i = 0, block = 0; i < READS; i++, block += 7919)
        must(pread(fd, buffer, BLOCK, (off_t)(block % (PIECES * 256u)) * BLOCK) == BLOCK, "pread");
    tell("random_read_4k", READS, began);
    close(fd);
}

static void names(void) {
    char name[32];
    struct stat s;
    must(!mkdir("many", 0755) && !chdir("many"), "many");
    uint64_t began = now();
    for (int i = 0; i < MANY; i++) {
        sprintf(name, "file-%d", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
        must(fd >= 0 && !close(fd), name);
    }
    tell("create", MANY, began);

    sleep(EXPIRY_SECONDS);
    began = now();
    for (int i = 0; i < MANY; i++) {
        sprintf(name, "file-%d", i);
        must(!stat(name, &s), name);
    }
    tell("stat", MANY, began);

    sleep(EXPIRY_SECONDS);
    began = now();
    DIR *directory = opendir(".");
    must(directory != 0, "opendir");
    int found = 0;
    while (readdir(directory)) found++;
    closedir(directory);
    must(found == MANY + 2, "the number of names");
    tell("readdir", MANY, began);

    began = now();
    for (int i = 0; i < MANY; i++) {
        sprintf(name, "file-%d", i);
        must(!unlink(name), name);
    }
    tell("delete", MANY, began);
    must(!chdir(".."), "..");
}

static void run(const char *command) {
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)0);
        _exit(127);
    }
    int status;
    must(waitpid(child, &status, 0) == child, "waitpid");
    if (status) {
        fprintf(stderr, "%s: status %d\n", command, status);
        exit(1);
    }
}

static void programs(void) {
    /* The first one writes down what the files of this copy look like. */
    run("cd tree && git status --porcelain");
    sleep(EXPIRY_SECONDS);
    uint64_t began = now();
    run("cd tree && git status --porcelain");
    tell("git_status", 1, began);
    began = now();
    run("cd zlib && { CFLAGS=-O0 ./configure --static && make libz.a; } >/dev/null");
    tell("build", 1, began);
}

static int work(const char *directory, int guest) {
    in_guest = guest;
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    must(!chdir(directory), directory);
    /* What a start leaves to be done at the first call is not counted. */
    sleep(EXPIRY_SECONDS);
    data();
    names();
    programs();
    puts("complete");
    return fflush(stdout);
}

static void enter_share(void) {
    must(!mkdir("/share", 0755) && !mount("share", "/share", "virtiofs", 0, 0), "virtiofs");
    must(!chdir("/share") && !chroot("."), "chroot");
    must(!mount("proc", "/proc", "proc", 0, 0), "proc");
    must(!mount("tmpfs", "/dev", "tmpfs", 0, 0), "tmpfs");
    must(!mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)), "null");
}

int main(int count, char **arguments) {
    if (strcmp(arguments[0], "/init")) {
        if (count != 3) return 2;
        return work(arguments[1], !strcmp(arguments[2], "guest"));
    }
    pid_t child = fork();
    if (child == 0) {
        enter_share();
        exit(work("/work", 1));
    }
    waitpid(child, 0, 0);
    sync();
    reboot(RB_AUTOBOOT);
}
