// Fails what a process writes, or makes, below $QUOTA_FOLDER as a used up quota does, once $QUOTA_FOLDER.exceeded exists.
// Kernels without support for quotas can so be tested too. To be named in LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int exceeded(const char *path) {
  const char *folder = getenv("QUOTA_FOLDER");
  char marker[PATH_MAX];
  if (!folder || !path || strncmp(path, folder, strlen(folder)) || path[strlen(folder)] != '/') return 0;
  snprintf(marker, sizeof marker, "%s.exceeded", folder);
  return access(marker, F_OK) == 0;
}

static int exceeded_at(int file) {
  char name[64], path[PATH_MAX];
  int before = errno;
  snprintf(name, sizeof name, "/proc/self/fd/%d", file);
  ssize_t length = readlink(name, path, sizeof path - 1);
  errno = before;
  if (length < 0) return 0;
  path[length] = 0;
  int is = exceeded(path);
  errno = before;
  return is;
}

static int exceeded_below(int folder, const char *name) {
  char link[64], path[PATH_MAX * 2];
  if (!name || name[0] == '/') return exceeded(name);
  snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  snprintf(path + length, PATH_MAX, "/%s", name);
  return exceeded(path);
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(next))dlsym(RTLD_NEXT, #name)
#define REFUSE if (1) { errno = EDQUOT; return -1; }

ssize_t write(int file, const void *data, size_t size) {
  NEXT(write);
  if (size && exceeded_at(file)) REFUSE;
  return next(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
  NEXT(pwrite);
  if (size && exceeded_at(file)) REFUSE;
  return next(file, data, size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  NEXT(pwrite64);
  if (size && exceeded_at(file)) REFUSE;
  return next(file, data, size, at);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  NEXT(writev);
  if (exceeded_at(file)) REFUSE;
  return next(file, parts, count);
}

ssize_t sendfile64(int file, int from, off64_t *at, size_t size);
ssize_t sendfile64(int file, int from, off64_t *at, size_t size) {
  NEXT(sendfile64);
  if (exceeded_at(file)) REFUSE;
  return next(file, from, at, size);
}

int mkdir(const char *path, mode_t mode) {
  NEXT(mkdir);
  if (access(path, F_OK) && exceeded_below(AT_FDCWD, path)) REFUSE;
  return next(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
  NEXT(mkdirat);
  if (faccessat(folder, path, F_OK, 0) && exceeded_below(folder, path)) REFUSE;
  return next(folder, path, mode);
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
  NEXT(open);
  MODE
  if (flags & O_CREAT && access(path, F_OK) && exceeded_below(AT_FDCWD, path)) REFUSE;
  return next(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  NEXT(open64);
  MODE
  if (flags & O_CREAT && access(path, F_OK) && exceeded_below(AT_FDCWD, path)) REFUSE;
  return next(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  NEXT(openat);
  MODE
  if (flags & O_CREAT && faccessat(folder, path, F_OK, 0) && exceeded_below(folder, path)) REFUSE;
  return next(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
  NEXT(openat64);
  MODE
  if (flags & O_CREAT && faccessat(folder, path, F_OK, 0) && exceeded_below(folder, path)) REFUSE;
  return next(folder, path, flags, mode);
}
