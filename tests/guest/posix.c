/*
 * Every system call on files with every kind of path, in the directory that it is started in: as
 * root, and as an ordinary user where that can matter. Says in one line what came of each, so that
 * two runtimes can be compared. Sections begin with "== ". Needs root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { USER = 1000 };

/* What is at the path before each call. */
enum kind { NOTHING, FILE_, DIRECTORY, FULL, TO_FILE, DANGLING, LOOP, FIFO, SOCKET };

struct target {
    const char *name;    /* of the section's lines */
    const char *path;    /* given to the call */
    const char *place;   /* where the thing is made, if not at the path itself */
    enum kind kind;
    mode_t mode;
    uid_t owner;
    int users;           /* whether an ordinary user tries it too */
};

static char long_name[256], too_long_name[257], long_path[4096], too_long_path[4097];

static struct target targets[] = {
    {"absent", "t", NULL, NOTHING, 0, 0, 1},
    {"file", "t", NULL, FILE_, 0644, 0, 1},
    {"private file", "t", NULL, FILE_, 0600, 0, 1},
    {"forbidden file", "t", NULL, FILE_, 0000, USER, 1},
    {"user's file", "t", NULL, FILE_, 0640, USER, 1},
    {"set-id file", "t", NULL, FILE_, 06777, USER, 1},
    {"directory", "t", NULL, DIRECTORY, 0755, 0, 1},
    {"user's directory", "t", NULL, DIRECTORY, 0700, USER, 1},
    {"full directory", "t", NULL, FULL, 0755, 0, 0},
    {"link to file", "t", NULL, TO_FILE, 0, 0, 0},
    {"dangling link", "t", NULL, DANGLING, 0, 0, 0},
    {"loop", "t", NULL, LOOP, 0, 0, 0},
    {"fifo", "t", NULL, FIFO, 0644, 0, 0},
    {"socket", "t", NULL, SOCKET, 0644, 0, 0},
    {"below a file", "t/x", "t", FILE_, 0644, 0, 0},
    {"below nothing", "t/x", "t", NOTHING, 0, 0, 0},
    {"below a loop", "t/x", "t", LOOP, 0, 0, 0},
    {"in a closed directory", "closed/t", NULL, FILE_, 0666, 0, 1},
    {"in a fixed directory", "fixed/t", NULL, FILE_, 0666, 0, 1},
    {"new in a fixed directory", "fixed/t", NULL, NOTHING, 0, 0, 1},
    {"another's in a sticky directory", "sticky/t", NULL, FILE_, 0666, 0, 1},
    {"own in a sticky directory", "sticky/t", NULL, FILE_, 0666, USER, 1},
    {"name of 255 bytes", long_name, NULL, NOTHING, 0, 0, 0},
    {"name of 256 bytes", too_long_name, "", NOTHING, 0, 0, 0},
    {"path of 4095 bytes", long_path, "t", FILE_, 0644, 0, 0},
    {"path of 4096 bytes", too_long_path, "", NOTHING, 0, 0, 0},
    {"no path", "", "", NOTHING, 0, 0, 0},
    {"directory itself", "t/.", "t", DIRECTORY, 0755, 0, 0},
    {"directory above", "t/..", "t", DIRECTORY, 0755, 0, 0},
    {"file with a slash", "t/", "t", FILE_, 0644, 0, 0},
    {"directory with a slash", "t/", "t", DIRECTORY, 0755, 0, 0},
};

static long opened(int fd) {
    if (fd >= 0) close(fd);
    return fd < 0 ? -1 : 0;
}

static char text[8192];

#define CALL(name, expression) \
    static long name(const char *p) { return (long)(expression); }
CALL(open_read, opened(open(p, O_RDONLY | O_NONBLOCK)))
CALL(open_write, opened(open(p, O_WRONLY | O_NONBLOCK)))
CALL(open_trunc, opened(open(p, O_RDWR | O_TRUNC | O_NONBLOCK)))
CALL(open_create, opened(open(p, O_CREAT | O_RDWR | O_NONBLOCK, 0604)))
CALL(open_new, opened(open(p, O_CREAT | O_EXCL | O_WRONLY, 0444)))
CALL(open_directory, opened(open(p, O_RDONLY | O_DIRECTORY)))
CALL(open_no_link, opened(open(p, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)))
CALL(open_path, opened(open(p, O_PATH | O_NOFOLLOW)))
CALL(open_unnamed, opened(open(p, O_TMPFILE | O_RDWR, 0600)))
CALL(make_directory, mkdir(p, 0751))
CALL(make_fifo, mkfifo(p, 0640))
CALL(make_node, mknod(p, S_IFREG | 0640, 0))
CALL(make_link, symlink("source", p))
CALL(link_to, link("source", p))
CALL(link_from, link(p, "other"))
CALL(link_followed, linkat(AT_FDCWD, p, AT_FDCWD, "other", AT_SYMLINK_FOLLOW))
CALL(rename_to, rename("source", p))
CALL(rename_from, rename(p, "other"))
CALL(rename_new, renameat2(AT_FDCWD, "source", AT_FDCWD, p, RENAME_NOREPLACE))
CALL(rename_swap, renameat2(AT_FDCWD, "source", AT_FDCWD, p, RENAME_EXCHANGE))
CALL(remove_file, unlink(p))
CALL(remove_directory, rmdir(p))
CALL(change_mode, chmod(p, 02711))
CALL(change_owner, chown(p, USER, USER))
CALL(change_group, lchown(p, -1, USER))
CALL(change_nothing, chown(p, -1, -1))
CALL(change_size, truncate(p, 3))
CALL(change_times, utimensat(AT_FDCWD, p, NULL, 0))
CALL(set_times, utimensat(AT_FDCWD, p, (struct timespec[2]){{1, 2}, {3, 4}}, AT_SYMLINK_NOFOLLOW))
CALL(may_read, faccessat(AT_FDCWD, p, R_OK, AT_EACCESS))
CALL(may_write, faccessat(AT_FDCWD, p, W_OK, AT_EACCESS))
CALL(may_search, faccessat(AT_FDCWD, p, X_OK, AT_EACCESS))
CALL(read_link, readlink(p, text, sizeof text))
CALL(status, stat(p, &(struct stat){0}))
CALL(system_status, statfs(p, &(struct statfs){0}))
CALL(set_attribute, setxattr(p, "user.x", "1", 1, 0))
CALL(get_attribute, getxattr(p, "user.x", text, sizeof text))
CALL(list_attributes, llistxattr(p, text, sizeof text) < 0 ? -1 : 0)

/* What is needed before a call, and to be taken away after it. */
enum { READS = 1, USES_SOURCE = 2, MAKES_OTHER = 4 };

static const struct {
    const char *name;
    long (*call)(const char *);
    int needs;
} calls[] = {
#define READ(name) {#name, name, READS}
#define CHANGE(name, needs) {#name, name, needs}
    READ(open_read), READ(open_write), READ(open_directory), READ(open_no_link), READ(open_path),
    READ(may_read), READ(may_write), READ(may_search), READ(read_link), READ(status),
    READ(system_status), READ(get_attribute), READ(list_attributes),
    CHANGE(open_trunc, 0), CHANGE(open_create, 0), CHANGE(open_new, 0), CHANGE(open_unnamed, 0),
    CHANGE(make_directory, 0), CHANGE(make_fifo, 0), CHANGE(make_node, 0), CHANGE(make_link, 0),
    CHANGE(link_to, USES_SOURCE), CHANGE(link_from, MAKES_OTHER),
    CHANGE(link_followed, MAKES_OTHER), CHANGE(rename_to, USES_SOURCE),
    CHANGE(rename_from, MAKES_OTHER), CHANGE(rename_new, USES_SOURCE),
    CHANGE(rename_swap, USES_SOURCE), CHANGE(remove_file, 0), CHANGE(remove_directory, 0),
    CHANGE(change_mode, 0), CHANGE(change_owner, 0), CHANGE(change_group, 0),
    CHANGE(change_nothing, 0), CHANGE(change_size, 0), CHANGE(change_times, 0),
    CHANGE(set_times, 0), CHANGE(set_attribute, 0),
};

static void must(long result, const char *what) {
    if (result < 0) {
        printf("%s cannot be prepared: %s\n", what, strerrorname_np(errno));
        exit(1);
    }
}

static void write_file(const char *path, mode_t mode, uid_t owner) {
    umask(0);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, mode & 0777);
    umask(022);
    must(fd, path);
    must(write(fd, "content", 7), path);
    if (owner) must(fchown(fd, owner, owner), path);
    if (mode & 07000) must(fchmod(fd, mode), path);
    close(fd);
}

static const char *place(const struct target *t) {
    return t->place ? t->place : t->path;
}

static void prepare(const struct target *t) {
    const char *path = place(t);
    switch (t->kind) {
    case NOTHING: break;
    case FILE_: write_file(path, t->mode, t->owner); break;
    case FULL:
    case DIRECTORY:
        must(mkdir(path, t->mode), path);
        must(chown(path, t->owner, t->owner), path);
        must(chmod(path, t->mode), path);
        if (t->kind == FULL) must(mkdir("t/inner", 0755), "t/inner");
        break;
    case TO_FILE: must(symlink("kept", path), path); break;
    case DANGLING: must(symlink("nowhere", path), path); break;
    case LOOP: must(symlink("t", path), path); break;
    case FIFO: must(mkfifo(path, t->mode), path); break;
    case SOCKET: must(mknod(path, S_IFSOCK | t->mode, 0), path); break;
    }
}

/* Takes away whatever is at the path; gives whether there was something. */
static void clear(const char *path) {
    char inner[300];
    if (!*path || !unlink(path) || errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG) return;
    snprintf(inner, sizeof inner, "%s/inner", path);
    rmdir(inner);
    must(rmdir(path), path);
}

static void describe(const char *name, const char *path) {
    struct stat s;
    if (!*path || lstat(path, &s)) return;
    printf(", %s is %o %u:%u %lu %lld", name, s.st_mode, s.st_uid, s.st_gid,
           S_ISDIR(s.st_mode) ? 0UL : (unsigned long)s.st_nlink,
           S_ISREG(s.st_mode) || S_ISLNK(s.st_mode) ? (long long)s.st_size : 0LL);
    if (s.st_mtim.tv_sec == 3) printf(" at %ld", s.st_mtim.tv_nsec);
}

/* Tries one call; gives whether what it was tried on is still there as it was. */
static int try(const struct target *t, int call, uid_t user, int prepared) {
    int needs = calls[call].needs;
    if (!prepared) prepare(t);
    if (needs & USES_SOURCE) write_file("source", 0644, user);
    if (user) {
        must(setegid(user), "the group");
        must(seteuid(user), "the user");
    }
    errno = 0;
    long result = calls[call].call(t->path);
    const char *error = result < 0 ? strerrorname_np(errno) : "ok";
    if (user) {
        must(seteuid(0), "root");
        must(setegid(0), "root's group");
    }
    printf("%s: %s %ld", calls[call].name, error, result < 0 ? 0 : result);
    if (!(needs & READS)) describe("it", place(t));
    if (needs & USES_SOURCE) describe("the source", "source");
    if (needs & MAKES_OTHER) describe("the other", "other");
    printf("\n");
    if (needs & READS) return 1;
    clear(place(t));
    if (needs & USES_SOURCE) clear("source");
    if (needs & MAKES_OTHER) clear("other");
    if (t->kind == DANGLING) clear("nowhere");
    return 0;
}

static void repeat(char *to, size_t size, const char *end, const char *with) {
    size_t length = size - 1 - strlen(end), step = strlen(with);
    for (size_t i = 0; i < length; i++) to[i] = with[i % step];
    strcpy(to + length, end);
}

int main(void) {
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    umask(022);
    repeat(long_name, sizeof long_name, "", "n");
    repeat(too_long_name, sizeof too_long_name, "", "n");
    repeat(long_path, sizeof long_path, "t", "./");
    repeat(too_long_path, sizeof too_long_path, "t", "./");
    must(chmod(".", 0777), "the directory");
    write_file("kept", 0666, 0);
    must(mkdir("closed", 0700), "closed");
    must(mkdir("fixed", 0555), "fixed");
    must(mkdir("sticky", 0755), "sticky");
    must(chmod("sticky", 01777), "sticky");
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        for (int user = 0; user <= targets[i].users; user++) {
            printf("== %s, as %s\n", targets[i].name, user ? "a user" : "root");
            int prepared = 0;
            for (size_t c = 0; c < sizeof calls / sizeof *calls; c++)
                prepared = try(&targets[i], c, user ? USER : 0, prepared);
        }
    }
    printf("== the file that links led to\nno call");
    describe("it", "kept");
    printf("\n");
    return 0;
}
