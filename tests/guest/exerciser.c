/*
 * exerciser STEPS FILE…: random reads, writes, truncations, allocations, copies, mappings and direct
 * I/O of files, each compared with what it must have done to a copy in memory. Says a checksum of each
 * file at the end. The same steps on every machine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 300000, FILES = 8, BLOCK = 4096 };

struct file {
    const char *path;
    int fd, appender, direct; /* direct is -1 where the file system has no direct I/O */
    long size;
    unsigned char *model;
    unsigned char *map; /* of MOST bytes, of which those up to the size may be touched */
};

static uint64_t state = 42;

static uint32_t random_below(uint32_t end) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return end ? (uint32_t)(state >> 33) % end : 0;
}

static int step;
static const char *doing;

static void fail(struct file *f, const char *what) {
    printf("%s, step %d, %s: %s (%s)\n", f->path, step, doing, what, strerrorname_np(errno));
    exit(1);
}

#define MUST(condition) \
    if (!(condition)) fail(f, #condition)

static unsigned char buffer[MOST] __attribute__((aligned(BLOCK)));

/* A place in the file and a length that may pass its end, by at most `beyond`. */
static long range(struct file *f, long beyond, long *length) {
    long end = f->size + beyond < MOST ? f->size + beyond : MOST;
    long at = random_below(end);
    long most = random_below(4) ? 5000 : 70000;
    *length = random_below(most < end - at ? most : end - at);
    return at;
}

static void grow(struct file *f, long size) {
    if (size > f->size) f->size = size;
}

static void fill(long length) {
    for (long i = 0; i < length; i++) buffer[i] = random_below(256);
}

static void check(struct file *f, const unsigned char *seen, long at, long length) {
    for (long i = 0; i < length; i++)
        if (seen[i] != f->model[at + i]) {
            printf("byte %ld is %d, not %d; ", at + i, seen[i], f->model[at + i]);
            errno = 0;
            fail(f, "wrong content");
        }
}

static void open_all(struct file *f) {
    MUST((f->fd = open(f->path, O_RDWR)) >= 0);
    MUST((f->appender = open(f->path, O_WRONLY | O_APPEND)) >= 0);
    f->direct = open(f->path, O_RDWR | O_DIRECT);
    f->map = mmap(NULL, MOST, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    MUST(f->map != MAP_FAILED);
}

static void close_all(struct file *f) {
    MUST(!munmap(f->map, MOST));
    MUST(!close(f->fd));
    MUST(!close(f->appender));
    if (f->direct >= 0) MUST(!close(f->direct));
}

static void zero(struct file *f, long at, long length) {
    long end = at + length < f->size ? at + length : f->size;
    if (at < end) memset(f->model + at, 0, end - at);
}

static void one_step(struct file *f) {
    long length, at;
    struct stat s;
    switch (random_below(18)) {
    case 0: case 1: case 2:
        doing = "read";
        at = range(f, 0, &length);
        MUST(pread(f->fd, buffer, length, at) == length);
        check(f, buffer, at, length);
        break;
    case 3: case 4: case 5:
        doing = "write";
        at = range(f, 20000, &length);
        fill(length);
        MUST(pwrite(f->fd, buffer, length, at) == length);
        memcpy(f->model + at, buffer, length);
        if (length) grow(f, at + length);
        break;
    case 6:
        doing = "append";
        range(f, 0, &length);
        if (f->size + length > MOST) break;
        fill(length);
        MUST(write(f->appender, buffer, length) == length);
        memcpy(f->model + f->size, buffer, length);
        grow(f, f->size + length);
        break;
    case 7:
        doing = "truncate";
        at = random_below(random_below(3) ? f->size + 30000 : f->size / 2);
        if (at > MOST) break;
        MUST(!ftruncate(f->fd, at));
        if (at < f->size) memset(f->model + at, 0, f->size - at);
        f->size = at;
        break;
    case 8: case 9:
        doing = "read the mapping";
        at = range(f, 0, &length);
        check(f, f->map + at, at, length);
        break;
    case 10: case 11:
        doing = "write the mapping";
        at = range(f, 0, &length);
        fill(length);
        memcpy(f->map + at, buffer, length);
        memcpy(f->model + at, buffer, length);
        break;
    case 12:
        doing = "punch a hole";
        at = range(f, 0, &length);
        if (!length) break;
        MUST(!fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length));
        zero(f, at, length);
        break;
    case 13:
        doing = "allocate";
        at = range(f, 20000, &length);
        if (!length) break;
        if (random_below(2)) {
            MUST(!fallocate(f->fd, 0, at, length));
            grow(f, at + length);
        } else {
            MUST(!fallocate(f->fd, FALLOC_FL_KEEP_SIZE, at, length));
        }
        break;
    case 14: {
        doing = "copy";
        at = range(f, 0, &length);
        off64_t from = at, to = at + length + random_below(5000);
        if (!length || to + length > MOST) break;
        ssize_t copied = copy_file_range(f->fd, &from, f->fd, &to, length, 0);
        /* As much as it likes to, but something. */
        MUST(copied > 0 && copied <= length);
        memcpy(f->model + to - copied, f->model + at, copied);
        grow(f, to);
        break;
    }
    case 15:
        doing = "read directly";
        at = range(f, 0, &length) / BLOCK * BLOCK;
        length = length / BLOCK * BLOCK;
        if (f->direct < 0) break;
        if (at + length > f->size) {
            MUST(pread(f->direct, buffer, length, at) == f->size - at);
            length = f->size - at;
        } else {
            MUST(pread(f->direct, buffer, length, at) == length);
        }
        check(f, buffer, at, length);
        break;
    case 16:
        doing = "write directly";
        at = range(f, 20000, &length) / BLOCK * BLOCK;
        length = length / BLOCK * BLOCK;
        fill(length);
        /* As without direct I/O, so that the steps are the same on every file system. */
        MUST(pwrite(f->direct < 0 ? f->fd : f->direct, buffer, length, at) == length);
        memcpy(f->model + at, buffer, length);
        if (length) grow(f, at + length);
        break;
    default:
        doing = "sync and open again";
        if (random_below(2)) MUST(!msync(f->map, MOST, MS_SYNC));
        if (random_below(2)) MUST(!fsync(f->fd));
        if (random_below(2)) MUST(!posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED));
        close_all(f);
        open_all(f);
    }
    MUST(!fstat(f->fd, &s));
    if (s.st_size != f->size) {
        printf("size %ld, not %ld; ", (long)s.st_size, f->size);
        fail(f, "wrong size");
    }
}

int main(int count, char **arguments) {
    static struct file files[FILES];
    int steps = count > 1 ? atoi(arguments[1]) : 0, number = count - 2;
    if (number < 1 || number > FILES) return 2;
    for (int i = 0; i < number; i++) {
        struct file *f = &files[i];
        doing = "create";
        *f = (struct file){.path = arguments[i + 2], .model = calloc(1, MOST)};
        int fd = open(f->path, O_CREAT | O_EXCL | O_RDWR, 0644);
        MUST(fd >= 0);
        close(fd);
        open_all(f);
    }
    for (step = 0; step < steps; step++) one_step(&files[random_below(number)]);
    for (int i = 0; i < number; i++) {
        struct file *f = &files[i];
        doing = "read all";
        MUST(pread(f->fd, buffer, MOST, 0) == f->size);
        check(f, buffer, 0, f->size);
        close_all(f);
        uint64_t sum = 0;
        for (long j = 0; j < f->size; j++) sum = sum * 31 + f->model[j];
        printf("%d: %ld bytes, %016llx\n", i, f->size, (unsigned long long)sum);
    }
    return 0;
}
