/* Faults of a disk and sudden deaths, for one process and its children: a library for LD_PRELOAD.
 *
 * Every call that changes a file below $FAULT_ROOT is an event and counted in the file $FAULT_STATE, which the processes share.
 * From event number $FAULT_AT on (with $FAULT_ONCE: at that one only) happens what $FAULT_KIND says:
 *
 *   none      nothing, the events are only counted
 *   kill      the process dies (SIGKILL) before the call
 *   power     as kill; device and inode of each file with data that was never flushed are left in $FAULT_STATE.unflushed
 *   enospc    whatever needs room fails; the first write still gets half of its bytes to the disk, as on a real disk
 *   eio       the call fails
 *   erofs     the call fails, as on a file system that was remounted read-only
 *
 * A process that forked reads its environment again by `faults_arm`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, KILL, POWER, NO_SPACE, IO_ERROR, READ_ONLY };
enum need { ROOM, NO_ROOM }; /* whether a call takes room on the disk */

static const char *const kinds[] = {"none", "kill", "power", "enospc", "eio", "erofs"};
static const int errors[] = {0, 0, 0, ENOSPC, EIO, EROFS};

static char root[PATH_MAX], state[PATH_MAX];
static size_t root_length;
static enum kind kind;
static unsigned long at;
static int once;
static _Atomic unsigned long *events;

/* Files with unflushed data, in mode power; a file that is missed here only makes the test milder. */
static struct { dev_t device; ino_t inode; } unflushed[4096];
static int files;
static atomic_flag busy = ATOMIC_FLAG_INIT;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) void faults_arm(void) {
    const char *folder = getenv("FAULT_ROOT"), *counter = getenv("FAULT_STATE"), *name = getenv("FAULT_KIND");
    events = NULL;
    if (!folder || !counter || !name) return;
    snprintf(root, sizeof root, "%s", folder);
    snprintf(state, sizeof state, "%s", counter);
    root_length = strlen(root);
    for (kind = READ_ONLY; kind > NONE && strcmp(kinds[kind], name); kind--) {}
    at = getenv("FAULT_AT") ? strtoul(getenv("FAULT_AT"), NULL, 10) : 0;
    once = getenv("FAULT_ONCE") != NULL;
    int descriptor = open(state, O_RDWR);
    if (descriptor < 0) return;
    void *shared = mmap(NULL, sizeof *events, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (shared != MAP_FAILED) events = shared;
}

static int is_below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int link_of(int descriptor, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int watched_descriptor(int descriptor) {
    char path[PATH_MAX];
    return events && link_of(descriptor, path) && is_below(path);
}

static int watched_path(int folder, const char *path) {
    char whole[2 * PATH_MAX], start[PATH_MAX];
    if (!events || !path) return 0;
    if (path[0] == '/') return is_below(path);
    if (folder == AT_FDCWD ? !getcwd(start, sizeof start) : !link_of(folder, start)) return 0;
    snprintf(whole, sizeof whole, "%s/%s", start, path);
    return is_below(whole);
}

static void die(void) {
    if (kind == POWER) {
        char name[PATH_MAX + 16];
        snprintf(name, sizeof name, "%s.unflushed", state);
        FILE *file = fopen(name, "a");
        for (int i = 0; file && i < files; i++)
            fprintf(file, "%lu %lu\n", (unsigned long)unflushed[i].device, (unsigned long)unflushed[i].inode);
        if (file) fclose(file);
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts an event: 0 where the call goes on, else the errno with which it fails. `first`, where given, is set at the first fault. */
static int event(enum need need, int *first) {
    unsigned long number = atomic_fetch_add(events, 1) + 1;
    if (kind == NONE || number < at || (once && number > at)) return 0;
    if (kind <= POWER) die();
    if (kind == NO_SPACE && need == NO_ROOM) return 0;
    if (first) *first = number == at;
    return errors[kind];
}

static void written(int descriptor, int is_flush) {
    struct stat about;
    if (kind != POWER || fstat(descriptor, &about) || !S_ISREG(about.st_mode)) return;
    while (atomic_flag_test_and_set(&busy)) {}
    int i = 0;
    while (i < files && (unflushed[i].device != about.st_dev || unflushed[i].inode != about.st_ino)) i++;
    if (is_flush && i < files) unflushed[i] = unflushed[--files];
    if (!is_flush && i == files && files < 4096) {
        unflushed[i].device = about.st_dev;
        unflushed[i].inode = about.st_ino;
        files++;
    }
    atomic_flag_clear(&busy);
}

static int grows(int descriptor, off_t from, size_t length) {
    struct stat about;
    if (fstat(descriptor, &about) || !S_ISREG(about.st_mode)) return 0;
    int flags = fcntl(descriptor, F_GETFL);
    if (from < 0) from = flags & O_APPEND ? about.st_size : lseek(descriptor, 0, SEEK_CUR);
    return from + (off_t)length > about.st_size;
}

#define FAIL(watched, need) \
    if (watched) { \
        int number = event(need, NULL); \
        if (number) { errno = number; return -1; } \
    }

/* Opening: an event where it makes or empties a file; on a read-only file system every opening for writing. */
static int opening(int folder, const char *path, int flags) {
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT)) || !watched_path(folder, path)) return 0;
    int exists = !faccessat(folder, path, F_OK, 0);
    if (exists && !(flags & O_TRUNC) && kind != READ_ONLY) return 0;
    return event(exists ? NO_ROOM : ROOM, NULL);
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        MODE \
        int number = opening(AT_FDCWD, path, flags); \
        if (number) { errno = number; return -1; } \
        return real(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        MODE \
        int number = opening(folder, path, flags); \
        if (number) { errno = number; return -1; } \
        return real(folder, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* The bytes of a write that reach the disk; -1 with errno where none do. */
static ssize_t taken(int descriptor, off_t from, size_t length) {
    if (!watched_descriptor(descriptor)) return (ssize_t)length;
    int first = 0, number = event(grows(descriptor, from, length) ? ROOM : NO_ROOM, &first);
    if (number == ENOSPC && first && length > 1) return (ssize_t)(length / 2);
    if (number) { errno = number; return -1; }
    written(descriptor, 0);
    return (ssize_t)length;
}

ssize_t write(int descriptor, const void *data, size_t length) {
    REAL(write);
    ssize_t some = taken(descriptor, -1, length);
    return some < 0 ? -1 : real(descriptor, data, (size_t)some);
}

#define PWRITE(name, offset) \
    ssize_t name(int descriptor, const void *data, size_t length, offset from) { \
        REAL(name); \
        ssize_t some = taken(descriptor, (off_t)from, length); \
        return some < 0 ? -1 : real(descriptor, data, (size_t)some, from); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    size_t length = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    ssize_t some = taken(descriptor, -1, length);
    if (some < 0) return -1;
    if ((size_t)some == length) return real(descriptor, parts, count);
    struct iovec part = parts[0]; /* half of it, or of its first part: a short write is allowed to be shorter */
    if ((size_t)some < part.iov_len) part.iov_len = (size_t)some;
    return real(descriptor, &part, 1);
}

#define SENDFILE(name, offset) \
    ssize_t name(int out, int in, offset *from, size_t length) { \
        REAL(name); \
        FAIL(watched_descriptor(out), ROOM) \
        if (events) written(out, 0); \
        return real(out, in, from, length); \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned int flags) {
    REAL(copy_file_range);
    FAIL(watched_descriptor(out), ROOM)
    if (events) written(out, 0);
    return real(in, from, out, to, length, flags);
}

#define FLUSH(name) \
    int name(int descriptor) { \
        REAL(name); \
        int watched = watched_descriptor(descriptor); \
        FAIL(watched, NO_ROOM) \
        if (watched) written(descriptor, 1); \
        return real(descriptor); \
    }
FLUSH(fsync)
FLUSH(fdatasync)

#define TRUNCATE(name, offset) \
    int name(int descriptor, offset length) { \
        REAL(name); \
        FAIL(watched_descriptor(descriptor), grows(descriptor, length, 0) ? ROOM : NO_ROOM) \
        return real(descriptor, length); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    REAL(rename);
    FAIL(watched_path(AT_FDCWD, to), NO_ROOM)
    return real(from, to);
}
int renameat(int one, const char *from, int other, const char *to) {
    REAL(renameat);
    FAIL(watched_path(other, to), NO_ROOM)
    return real(one, from, other, to);
}
int renameat2(int one, const char *from, int other, const char *to, unsigned int flags) {
    REAL(renameat2);
    FAIL(watched_path(other, to), NO_ROOM)
    return real(one, from, other, to, flags);
}
int link(const char *from, const char *to) {
    REAL(link);
    FAIL(watched_path(AT_FDCWD, to), ROOM)
    return real(from, to);
}
int linkat(int one, const char *from, int other, const char *to, int flags) {
    REAL(linkat);
    FAIL(watched_path(other, to), ROOM)
    return real(one, from, other, to, flags);
}
int symlink(const char *from, const char *to) {
    REAL(symlink);
    FAIL(watched_path(AT_FDCWD, to), ROOM)
    return real(from, to);
}
int unlink(const char *path) {
    REAL(unlink);
    FAIL(watched_path(AT_FDCWD, path), NO_ROOM)
    return real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    FAIL(watched_path(folder, path), NO_ROOM)
    return real(folder, path, flags);
}
int rmdir(const char *path) {
    REAL(rmdir);
    FAIL(watched_path(AT_FDCWD, path), NO_ROOM)
    return real(path);
}
/* A folder that is there is EEXIST, whatever the disk is like. */
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    FAIL(watched_path(AT_FDCWD, path) && faccessat(AT_FDCWD, path, F_OK, 0), ROOM)
    return real(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(mkdirat);
    FAIL(watched_path(folder, path) && faccessat(folder, path, F_OK, 0), ROOM)
    return real(folder, path, mode);
}
