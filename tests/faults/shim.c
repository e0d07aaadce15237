/* A disk, a lock and a clock that fail on demand: put in front of libc with LD_PRELOAD. For tests; see shim.py.

   FAULTS_UNDER  the directory that is meant; calls about other paths pass untouched
   FAULTS_RULES  "call errno skip times glob" lines: calls of that name ("change": all that change something) whose path
                 matches the glob fail with errno, after the first `skip` of them, `times` times (-1: for ever)
   FAULTS_KILL   SIGKILL this process at its n-th call that changes something; of a write, half is done before
   FAULTS_LOG    a file that gets a line for each change that was made: "call path"
   FAULTS_CLOCK  a file with a 64-bit number: seconds that are added to the wall clock, read again at each look at it  */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RULES 32

struct rule { char call[16]; int number; long skip; long times; char glob[128]; };

static struct rule rules[RULES];
static int rule_count;
static char under[PATH_MAX];
static long kill_at;
static long changes;
static int log_fd = -1;
static volatile int64_t *clock_offset;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULTS_UNDER");
    if (text && *text) snprintf(under, sizeof under, "%s", text);
    if ((text = getenv("FAULTS_KILL"))) kill_at = atol(text);
    if ((text = getenv("FAULTS_LOG"))) log_fd = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if ((text = getenv("FAULTS_CLOCK"))) {
        int fd = syscall(SYS_openat, AT_FDCWD, text, O_RDONLY | O_CLOEXEC, 0);
        void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (page != MAP_FAILED) clock_offset = page;
        if (fd >= 0) syscall(SYS_close, fd);
    }
    for (text = getenv("FAULTS_RULES"); text && *text && rule_count < RULES; text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL) {
        struct rule *rule = &rules[rule_count];
        if (sscanf(text, "%15s %d %ld %ld %127[^\n]", rule->call, &rule->number, &rule->skip, &rule->times, rule->glob) == 5) rule_count++;
    }
}

static void of_descriptor(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[count < 0 ? 0 : count] = 0;
}

static void of_name(int directory, const char *name, char *path) {
    path[0] = 0;
    if (name[0] == '/') { snprintf(path, PATH_MAX, "%s", name); return; }
    char base[PATH_MAX];
    if (directory == AT_FDCWD) { if (!getcwd(base, sizeof base)) return; }
    else of_descriptor(directory, base);
    if (strlen(base) + strlen(name) + 2 < PATH_MAX) { strcpy(path, base); strcat(path, "/"); strcat(path, name); }
}

static int is_ours(const char *path) {
    size_t length = strlen(under);
    return length && !strncmp(path, under, length) && (path[length] == '/' || !path[length]);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static int means(const struct rule *rule, const char *call, int is_change) {
    if (!strcmp(rule->call, "change")) return is_change || !strcmp(call, "open");
    if (!strcmp(rule->call, "name")) return !strcmp(call, "rename") || !strcmp(call, "link");
    return !strcmp(rule->call, call);
}

/* 0: go on; -1: errno is set, fail; 1: do half of it (a write), then die. */
static int gate(const char *call, const char *path, int is_change) {
    int result = 0, number = 0;
    if (!is_ours(path)) return 0;
    pthread_mutex_lock(&mutex);
    if (is_change && kill_at && ++changes == kill_at) result = 1;
    for (int i = 0; !result && i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (!means(rule, call, is_change) || fnmatch(rule->glob, path, 0) || !rule->times) continue;
        if (rule->skip > 0) { rule->skip--; continue; }
        if (rule->times > 0) rule->times--;
        number = rule->number;
        result = -1;
    }
    pthread_mutex_unlock(&mutex);
    if (result == 1 && strcmp(call, "write")) die();
    if (result == -1) errno = number;
    return result;
}

static void note(const char *call, const char *path, const char *other) {
    if (log_fd < 0 || !is_ours(path)) return;
    int saved = errno;
    char line[2 * PATH_MAX + 32];
    int count = snprintf(line, sizeof line, "%s %s%s%s\n", call, path, other ? " " : "", other ? other : "");
    syscall(SYS_write, log_fd, line, (size_t)count);
    errno = saved;
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })
#define ABOUT_FD(fd) char path[PATH_MAX]; of_descriptor(fd, path)
#define ABOUT(directory, name) char path[PATH_MAX]; of_name(directory, name, path)
#define ASK(call, change) do { if (gate(call, path, change) < 0) return -1; } while (0)
#define DONE(call, expression) do { __typeof__(expression) result_ = (expression); if (result_ >= 0) note(call, path, NULL); return result_; } while (0)

static int makes(int directory, const char *name, int flags) {
    return (flags & O_CREAT) && syscall(SYS_faccessat, directory, name, F_OK) != 0;
}

static int opened(int directory, const char *name, int flags, mode_t mode) {
    ABOUT(directory, name);
    int is_new = makes(directory, name, flags);
    const char *call = is_new ? "create" : (flags & O_ACCMODE) == O_RDONLY ? "look" : "open";
    ASK(call, is_new);
    int fd = syscall(SYS_openat, directory, name, flags | O_LARGEFILE, mode);
    if (fd >= 0 && is_new) note(call, path, NULL);
    return fd;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) { MODE return opened(directory, name, flags, mode); }
int openat64(int directory, const char *name, int flags, ...) { MODE return opened(directory, name, flags, mode); }

ssize_t write(int fd, const void *data, size_t count) {
    ABOUT_FD(fd);
    int verdict = gate("write", path, 1);
    if (verdict < 0) return -1;
    if (verdict) { syscall(SYS_write, fd, data, count / 2); die(); }
    DONE("write", REAL(write)(fd, data, count));
}
static ssize_t put(int fd, const void *data, size_t count, off64_t offset) {
    ABOUT_FD(fd);
    int verdict = gate("write", path, 1);
    if (verdict < 0) return -1;
    if (verdict) { REAL(pwrite64)(fd, data, count / 2, offset); die(); }
    DONE("write", REAL(pwrite64)(fd, data, count, offset));
}
ssize_t pwrite(int fd, const void *data, size_t count, off_t offset) { return put(fd, data, count, offset); }
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return put(fd, data, count, offset); }

ssize_t read(int fd, void *data, size_t count) { ABOUT_FD(fd); ASK("read", 0); return REAL(read)(fd, data, count); }
ssize_t preadv64(int fd, const struct iovec *vector, int count, off64_t offset) { ABOUT_FD(fd); ASK("read", 0); return REAL(preadv64)(fd, vector, count, offset); }
ssize_t preadv64v2(int fd, const struct iovec *vector, int count, off64_t offset, int flags) { ABOUT_FD(fd); ASK("read", 0); return REAL(preadv64v2)(fd, vector, count, offset, flags); }

int fsync(int fd) { ABOUT_FD(fd); ASK("sync", 1); DONE("sync", REAL(fsync)(fd)); }
int fdatasync(int fd) { ABOUT_FD(fd); ASK("sync", 1); DONE("sync", REAL(fdatasync)(fd)); }
int fallocate64(int fd, int mode, off64_t offset, off64_t count) { ABOUT_FD(fd); ASK("fallocate", 1); DONE("fallocate", REAL(fallocate64)(fd, mode, offset, count)); }
int fallocate(int fd, int mode, off_t offset, off_t count) { return fallocate64(fd, mode, offset, count); }
int ftruncate64(int fd, off64_t length) { ABOUT_FD(fd); ASK("truncate", 1); DONE("truncate", REAL(ftruncate64)(fd, length)); }
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int moved(int from, const char *old, int to, const char *new) {
    char path[PATH_MAX], target[PATH_MAX];
    of_name(from, old, path);
    of_name(to, new, target);
    if (gate("rename", target, 1) < 0) return -1;
    int result = REAL(renameat)(from, old, to, new);
    if (!result) note("rename", path, target);
    return result;
}
int rename(const char *old, const char *new) { return moved(AT_FDCWD, old, AT_FDCWD, new); }
int renameat(int from, const char *old, int to, const char *new) { return moved(from, old, to, new); }

static int linked(int from, const char *old, int to, const char *new, int flags) {
    char path[PATH_MAX], target[PATH_MAX];
    of_name(from, old, path);
    of_name(to, new, target);
    if (gate("link", target, 1) < 0) return -1;
    int result = REAL(linkat)(from, old, to, new, flags);
    if (!result) note("link", path, target);
    return result;
}
int link(const char *old, const char *new) { return linked(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return linked(from, old, to, new, flags); }
static int pointed(const char *target, int to, const char *new) { ABOUT(to, new); ASK("symlink", 1); DONE("symlink", REAL(symlinkat)(target, to, new)); }
int symlink(const char *target, const char *new) { return pointed(target, AT_FDCWD, new); }
int symlinkat(const char *target, int to, const char *new) { return pointed(target, to, new); }

static int dropped(int directory, const char *name, int flags) { ABOUT(directory, name); ASK("unlink", 1); DONE("unlink", REAL(unlinkat)(directory, name, flags)); }
int unlink(const char *name) { return dropped(AT_FDCWD, name, 0); }
int unlinkat(int directory, const char *name, int flags) { return dropped(directory, name, flags); }
int rmdir(const char *name) { return dropped(AT_FDCWD, name, AT_REMOVEDIR); }
static int made(int directory, const char *name, mode_t mode) { ABOUT(directory, name); ASK("mkdir", 1); DONE("mkdir", REAL(mkdirat)(directory, name, mode)); }
int mkdir(const char *name, mode_t mode) { return made(AT_FDCWD, name, mode); }
int mkdirat(int directory, const char *name, mode_t mode) { return made(directory, name, mode); }
int chmod(const char *name, mode_t mode) { ABOUT(AT_FDCWD, name); ASK("chmod", 1); DONE("chmod", REAL(chmod)(name, mode)); }
int fchmodat(int directory, const char *name, mode_t mode, int flags) { ABOUT(directory, name); ASK("chmod", 1); DONE("chmod", REAL(fchmodat)(directory, name, mode, flags)); }
int utimensat(int directory, const char *name, const struct timespec times[2], int flags) { ABOUT(directory, name); ASK("utime", 1); DONE("utime", REAL(utimensat)(directory, name, times, flags)); }

int flock(int fd, int operation) {
    ABOUT_FD(fd);
    ASK("flock", 0);
    return syscall(SYS_flock, fd, operation);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = REAL(clock_gettime)(which, now);
    if (!result && clock_offset && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += *clock_offset;
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec found;
    if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *place) {
    struct timespec found;
    if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
    if (place) *place = found.tv_sec;
    return found.tv_sec;
}
