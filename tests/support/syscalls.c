/* Preloaded into a child of a test: what it asks of the disk is counted, written down, refused or cut.

   Only paths below NA_ROOT are looked at. Everything is off until the child calls one of the na_
   functions (tests/support/syscalls.py does, by ctypes). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define RULES 16
static struct { char op[16]; char part[128]; int error; long skip, count; } rules[RULES];
static int ruled, trace_fd = -1;
static long budget = -1, done, kill_at = -1, clock_offset;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void na_fail(const char *op, const char *part, int error, long skip, long count) {
    pthread_mutex_lock(&lock);
    if (ruled < RULES) {
        snprintf(rules[ruled].op, sizeof rules[0].op, "%s", op);
        snprintf(rules[ruled].part, sizeof rules[0].part, "%s", part);
        rules[ruled].error = error; rules[ruled].skip = skip; rules[ruled].count = count;
        ruled++;
    }
    pthread_mutex_unlock(&lock);
}
void na_mend(void) { ruled = 0; budget = -1; }
void na_budget(long bytes) { budget = bytes; }
void na_kill_at(long number) { kill_at = number; }
void na_clock(long seconds) { clock_offset = seconds; }
long na_done(void) { return done; }
void na_trace(const char *path) {
    trace_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void say(const char *op, const char *path, const char *other, long at, const void *data, size_t size) {
    static const char hex[] = "0123456789abcdef";
    if (trace_fd < 0) return;
    char *line = malloc(strlen(path) + strlen(other) + 64 + 2 * size);
    size_t n = sprintf(line, "%s\t%s\t%s\t%ld\t", op, path, other, at);
    for (size_t i = 0; i < size; i++) {
        line[n++] = hex[((const unsigned char *)data)[i] >> 4];
        line[n++] = hex[((const unsigned char *)data)[i] & 15];
    }
    line[n++] = '\n';
    for (size_t sent = 0; sent < n;) {
        long one = syscall(SYS_write, trace_fd, line + sent, n - sent);
        if (one <= 0) abort();
        sent += one;
    }
    free(line);
}
void na_mark(const char *text) {
    pthread_mutex_lock(&lock);
    say("mark", text, "", 0, "", 0);
    pthread_mutex_unlock(&lock);
}

static int ours(const char *path) {
    const char *root = getenv("NA_ROOT");
    size_t n = strlen(path);
    if (n > 4 && !strcmp(path + n - 4, "-shm")) return 0; /* holds nothing that is kept */
    size_t m = root ? strlen(root) : 0;
    return root && !strncmp(path, root, m) && (path[m] == '/' || !path[m]);
}
static int of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return ours(path);
}
static int at_path(int dir, const char *name, char *path) {
    if (name[0] == '/') snprintf(path, PATH_MAX, "%s", name);
    else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else { of_fd(dir, base); }
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return ours(path);
}
/* Count an operation; return the error it has to fail with, or 0. */
static int met(const char *op, const char *path) {
    if (kill_at >= 0 && done >= kill_at) { kill(getpid(), SIGKILL); for (;;) pause(); }
    done++;
    for (int i = 0; i < ruled; i++) {
        if (strcmp(rules[i].op, op) || !strstr(path, rules[i].part)) continue;
        if (rules[i].skip > 0) { rules[i].skip--; continue; }
        if (rules[i].count == 0) continue;
        if (rules[i].count > 0) rules[i].count--;
        return rules[i].error;
    }
    return 0;
}
#define ENTER pthread_mutex_lock(&lock); int error
#define REFUSED if (error) { pthread_mutex_unlock(&lock); errno = error; return -1; }
#define LEAVE(value) do { int kept = errno; pthread_mutex_unlock(&lock); errno = kept; return value; } while (0)

/* How much of a write fits on the disk. */
static ssize_t fits(int fd, size_t size, off_t at) {
    struct stat st;
    if (budget < 0 || fstat(fd, &st)) return size;
    long grown = (long)(at + size) - st.st_size;
    if (grown <= 0) return size;
    if (grown <= budget) { budget -= grown; return size; }
    long allowed = (long)size - (grown - budget);
    budget = 0;
    return allowed > 0 ? allowed : 0;
}

#define WRITE(name, type) \
ssize_t name(int fd, const void *data, size_t size, type at) { \
    REAL(ssize_t, #name, int, const void *, size_t, type); \
    char path[PATH_MAX]; \
    if (!of_fd(fd, path)) return real(fd, data, size, at); \
    ENTER = met("write", path); REFUSED \
    ssize_t allowed = fits(fd, size, at); \
    if (size && !allowed) { pthread_mutex_unlock(&lock); errno = ENOSPC; return -1; } \
    ssize_t n = real(fd, data, allowed, at); \
    if (n > 0) say("write", path, "", at, data, n); \
    LEAVE(n); \
}
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[PATH_MAX];
    if (!of_fd(fd, path)) return real(fd, data, size);
    ENTER = met("write", path); REFUSED
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t allowed = fits(fd, size, at);
    if (size && !allowed) { pthread_mutex_unlock(&lock); errno = ENOSPC; return -1; }
    ssize_t n = real(fd, data, allowed);
    if (n > 0) say("write", path, "", at, data, n);
    LEAVE(n);
}

#define SYNC(name) \
int name(int fd) { \
    REAL(int, #name, int); \
    char path[PATH_MAX]; \
    if (!of_fd(fd, path)) return real(fd); \
    ENTER = met("sync", path); REFUSED \
    int result = real(fd); \
    if (!result) say("sync", path, "", 0, "", 0); \
    LEAVE(result); \
}
SYNC(fsync)
SYNC(fdatasync)

#define CUT(name, type) \
int name(int fd, type size) { \
    REAL(int, #name, int, type); \
    char path[PATH_MAX]; \
    if (!of_fd(fd, path)) return real(fd, size); \
    ENTER = met("write", path); REFUSED \
    int result = real(fd, size); \
    if (!result) say("cut", path, "", size, "", 0); \
    LEAVE(result); \
}
CUT(ftruncate, off_t)
CUT(ftruncate64, off64_t)

static int opened(int (*real)(int, const char *, int, ...), int dir, const char *name, int flags, int mode) {
    char path[PATH_MAX];
    if (!at_path(dir, name, path) || (flags & O_ACCMODE) == O_RDONLY) return real(dir, name, flags, mode);
    struct stat st;
    int fresh = (flags & O_CREAT) && stat(path, &st);
    ENTER = met(fresh ? "create" : "open", path); REFUSED
    int fd = real(dir, name, flags, mode);
    if (fd >= 0 && fresh) say("create", path, "", 0, "", 0);
    else if (fd >= 0 && (flags & O_TRUNC)) say("cut", path, "", 0, "", 0);
    LEAVE(fd);
}
static int (*real_openat(void))(int, const char *, int, ...) {
    REAL(int, "openat", int, const char *, int, ...);
    return real;
}
#define MODE(last) int mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, last); mode = va_arg(list, int); va_end(list); }
int open(const char *name, int flags, ...) { MODE(flags) return opened(real_openat(), AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(real_openat(), AT_FDCWD, name, flags, mode); }
int openat(int dir, const char *name, int flags, ...) { MODE(flags) return opened(real_openat(), dir, name, flags, mode); }
int openat64(int dir, const char *name, int flags, ...) { MODE(flags) return opened(real_openat(), dir, name, flags, mode); }
int __open_2(const char *name, int flags) { return opened(real_openat(), AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return opened(real_openat(), AT_FDCWD, name, flags, 0); }

#define TWO(op, call) \
    char path[PATH_MAX], other[PATH_MAX]; \
    if (!(at_path(one, from, path) | at_path(two, to, other))) return call; \
    ENTER = met(op, other); REFUSED \
    int result = call; \
    if (!result) say(op, path, other, 0, "", 0); \
    LEAVE(result);
int renameat(int one, const char *from, int two, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    TWO("rename", real(one, from, two, to))
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
int linkat(int one, const char *from, int two, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    TWO("link", real(one, from, two, to, flags))
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int dir, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char path[PATH_MAX];
    if (!at_path(dir, name, path)) return real(dir, name, flags);
    ENTER = met("unlink", path); REFUSED
    int result = real(dir, name, flags);
    if (!result) say("unlink", path, "", 0, "", 0);
    LEAVE(result);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) {
    struct stat st;
    return unlinkat(AT_FDCWD, name, !lstat(name, &st) && S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
}
int mkdirat(int dir, const char *name, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    char path[PATH_MAX];
    if (!at_path(dir, name, path)) return real(dir, name, mode);
    ENTER = met("create", path); REFUSED
    int result = real(dir, name, mode);
    if (!result) say("mkdir", path, "", 0, "", 0);
    LEAVE(result);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int clock_gettime(clockid_t id, struct timespec *to) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int result = real(id, to);
    if (!result && id == CLOCK_REALTIME) to->tv_sec += clock_offset;
    return result;
}
