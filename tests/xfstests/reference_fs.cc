// SPDX-License-Identifier: Apache-2.0
// The smallest FUSE server that is complete enough to compare with: it passes everything through to
// a directory of another filesystem. What fails here as well is the kernel's FUSE client, or
// libfuse's, not pbfs. It asks the kernel for the same as pbfs does (fs/fuse/handlers.cc).
//
//   reference_fs -o OPTION,... DIRECTORY MOUNTPOINT
//
// Permissions are the kernel's to check (default_permissions); new files are given to their owner
// here. Single-threaded.
#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr double kForever = 86400;

// A file the kernel knows. Its address is the number the kernel knows it by.
struct Node {
  int fd;  // O_PATH.
  std::pair<dev_t, ino_t> id;
  uint64_t lookups = 0;
};

Node root;
std::map<std::pair<dev_t, ino_t>, std::unique_ptr<Node>> nodes;

Node& NodeOf(fuse_ino_t ino) {
  return ino == FUSE_ROOT_ID ? root : *reinterpret_cast<Node*>(ino);  // NOLINT
}
int FdOf(fuse_ino_t ino) { return NodeOf(ino).fd; }
// Leads to the file itself, a symbolic link included.
std::string PathOf(fuse_ino_t ino) { return "/proc/self/fd/" + std::to_string(FdOf(ino)); }
int Handle(const fuse_file_info* info) { return static_cast<int>(info->fh); }

void ReplyErrno(fuse_req_t request, int64_t result) {
  fuse_reply_err(request, result < 0 ? errno : 0);
}

// False, with errno.
bool Find(fuse_ino_t parent, const char* name, fuse_entry_param* entry) {
  const int fd = openat(FdOf(parent), name, O_PATH | O_NOFOLLOW);
  if (fd < 0) return false;
  *entry = {};
  fstatat(fd, "", &entry->attr, AT_EMPTY_PATH);
  const std::pair<dev_t, ino_t> id{entry->attr.st_dev, entry->attr.st_ino};
  std::unique_ptr<Node>& node = nodes[id];
  if (id == root.id) {
    entry->ino = FUSE_ROOT_ID;
    close(fd);
  } else if (node != nullptr) {
    close(fd);
  } else {
    node = std::make_unique<Node>(Node{fd, id, 0});
  }
  if (id != root.id) {
    ++node->lookups;
    entry->ino = reinterpret_cast<fuse_ino_t>(node.get());
  } else {
    nodes.erase(id);
  }
  entry->generation = 1;
  entry->attr_timeout = entry->entry_timeout = kForever;
  return true;
}

void ReplyEntry(fuse_req_t request, fuse_ino_t parent, const char* name) {
  fuse_entry_param entry;
  if (Find(parent, name, &entry)) {
    fuse_reply_entry(request, &entry);
  } else {
    fuse_reply_err(request, errno);
  }
}

// A new file was made by root: gives it to the caller, as a filesystem would have.
void GiveToCaller(fuse_req_t request, fuse_ino_t parent, const char* name) {
  struct stat directory = {}, made = {};
  fstatat(FdOf(parent), "", &directory, AT_EMPTY_PATH);
  fstatat(FdOf(parent), name, &made, AT_SYMLINK_NOFOLLOW);
  const fuse_ctx* caller = fuse_req_ctx(request);
  const gid_t gid = (directory.st_mode & S_ISGID) != 0 ? directory.st_gid : caller->gid;
  fchownat(FdOf(parent), name, caller->uid, gid, AT_SYMLINK_NOFOLLOW);
  // That took set-user-ID away.
  if ((made.st_mode & 07000) != 0 && !S_ISLNK(made.st_mode)) {
    fchmodat(FdOf(parent), name, made.st_mode & 07777, 0);
  }
}

void Init(void*, fuse_conn_info* connection) {
  connection->want =
      connection->capable &
      (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
       FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_CACHE_SYMLINKS |
       FUSE_CAP_IOCTL_DIR | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
  connection->max_write = 1 << 20;
  connection->time_gran = 1;
}

void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  ReplyEntry(request, parent, name);
}

void ForgetOne(fuse_ino_t ino, uint64_t count) {
  Node& node = NodeOf(ino);
  if (&node == &root) return;
  node.lookups -= count;
  if (node.lookups > 0) return;
  close(node.fd);
  nodes.erase(std::pair(node.id));
}

void Forget(fuse_req_t request, fuse_ino_t ino, uint64_t count) {
  ForgetOne(ino, count);
  fuse_reply_none(request);
}

void ForgetMany(fuse_req_t request, size_t count, fuse_forget_data* forgets) {
  for (size_t i = 0; i < count; ++i) ForgetOne(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(request);
}

void GetAttr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  struct stat attributes;
  if (fstatat(FdOf(ino), "", &attributes, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_attr(request, &attributes, kForever);
  }
}

int SetTimes(fuse_ino_t ino, const struct stat& wanted, int which) {
  timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  if ((which & FUSE_SET_ATTR_ATIME_NOW) != 0) {
    times[0].tv_nsec = UTIME_NOW;
  } else if ((which & FUSE_SET_ATTR_ATIME) != 0) {
    times[0] = wanted.st_atim;
  }
  if ((which & FUSE_SET_ATTR_MTIME_NOW) != 0) {
    times[1].tv_nsec = UTIME_NOW;
  } else if ((which & FUSE_SET_ATTR_MTIME) != 0) {
    times[1] = wanted.st_mtim;
  }
  return utimensat(FdOf(ino), "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

void SetAttr(fuse_req_t request, fuse_ino_t ino, struct stat* wanted, int which,
             fuse_file_info* info) {
  int result = 0;
  if ((which & FUSE_SET_ATTR_MODE) != 0) result = chmod(PathOf(ino).c_str(), wanted->st_mode);
  if (result == 0 && (which & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
    const uid_t uid = (which & FUSE_SET_ATTR_UID) != 0 ? wanted->st_uid : static_cast<uid_t>(-1);
    const gid_t gid = (which & FUSE_SET_ATTR_GID) != 0 ? wanted->st_gid : static_cast<gid_t>(-1);
    result = fchownat(FdOf(ino), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
  }
  if (result == 0 && (which & FUSE_SET_ATTR_SIZE) != 0) {
    result = truncate(PathOf(ino).c_str(), wanted->st_size);
  }
  const int times =
      FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW;
  if (result == 0 && (which & times) != 0) result = SetTimes(ino, *wanted, which);
  if (result != 0) {
    fuse_reply_err(request, errno);
  } else {
    GetAttr(request, ino, info);
  }
}

void ReadLink(fuse_req_t request, fuse_ino_t ino) {
  char target[PATH_MAX + 1];
  const ssize_t length = readlinkat(FdOf(ino), "", target, PATH_MAX);
  if (length < 0) {
    fuse_reply_err(request, errno);
  } else {
    target[length] = '\0';
    fuse_reply_readlink(request, target);
  }
}

// Replies with the new entry, once `result` says that it was made.
void Made(fuse_req_t request, fuse_ino_t parent, const char* name, int result) {
  if (result != 0) {
    fuse_reply_err(request, errno);
    return;
  }
  GiveToCaller(request, parent, name);
  ReplyEntry(request, parent, name);
}
// FUSE_CAP_DONT_MASK: where a directory has a default ACL the mask is the filesystem's to apply.
void UseMask(fuse_req_t request) { umask(fuse_req_ctx(request)->umask); }

void Mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  UseMask(request);
  Made(request, parent, name, mknodat(FdOf(parent), name, mode, device));
}
void Mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  UseMask(request);
  Made(request, parent, name, mkdirat(FdOf(parent), name, mode));
}
void Symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  Made(request, parent, name, symlinkat(target, FdOf(parent), name));
}
void Unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  ReplyErrno(request, unlinkat(FdOf(parent), name, 0));
}
void Rmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  ReplyErrno(request, unlinkat(FdOf(parent), name, AT_REMOVEDIR));
}
void Rename(fuse_req_t request, fuse_ino_t from, const char* old_name, fuse_ino_t to,
            const char* new_name, unsigned flags) {
  ReplyErrno(request, renameat2(FdOf(from), old_name, FdOf(to), new_name, flags));
}
void Link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t parent, const char* name) {
  if (linkat(AT_FDCWD, PathOf(ino).c_str(), FdOf(parent), name, AT_SYMLINK_FOLLOW) != 0) {
    fuse_reply_err(request, errno);
  } else {
    ReplyEntry(request, parent, name);
  }
}

// The kernel reads pages that are written in part, and appends by itself, with the writeback cache.
int OpenFlags(int flags) {
  flags &= ~(O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW);
  return (flags & O_ACCMODE) == O_WRONLY ? (flags & ~O_ACCMODE) | O_RDWR : flags;
}
void Open(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  const int fd = open(PathOf(ino).c_str(), OpenFlags(info->flags));
  if (fd < 0) {
    fuse_reply_err(request, errno);
    return;
  }
  info->fh = static_cast<uint64_t>(fd);
  info->keep_cache = 1;
  fuse_reply_open(request, info);
}
void Create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode,
            fuse_file_info* info) {
  UseMask(request);
  const int flags = OpenFlags(info->flags) | O_CREAT | O_NOFOLLOW | (info->flags & O_EXCL);
  const bool existed = faccessat(FdOf(parent), name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
  const int fd = openat(FdOf(parent), name, flags, mode);
  if (fd < 0) {
    fuse_reply_err(request, errno);
    return;
  }
  if (!existed) GiveToCaller(request, parent, name);
  fuse_entry_param entry;
  if (!Find(parent, name, &entry)) {
    fuse_reply_err(request, errno);
    close(fd);
    return;
  }
  info->fh = static_cast<uint64_t>(fd);
  info->keep_cache = 1;
  fuse_reply_create(request, &entry, info);
}
void Release(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  close(Handle(info));
  fuse_reply_err(request, 0);
}
void Flush(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, 0); }
void Fsync(fuse_req_t request, fuse_ino_t, int only_data, fuse_file_info* info) {
  ReplyErrno(request, only_data != 0 ? fdatasync(Handle(info)) : fsync(Handle(info)));
}

void Read(fuse_req_t request, fuse_ino_t, size_t size, off_t offset, fuse_file_info* info) {
  static std::vector<char> buffer;
  buffer.resize(size);
  // With O_DIRECT the buffer would have to be aligned: not for what is compared here.
  fcntl(Handle(info), F_SETFL, fcntl(Handle(info), F_GETFL) & ~O_DIRECT);
  const ssize_t got = pread(Handle(info), buffer.data(), size, offset);
  if (got < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_buf(request, buffer.data(), static_cast<size_t>(got));
  }
}
void Write(fuse_req_t request, fuse_ino_t, const char* bytes, size_t size, off_t offset,
           fuse_file_info* info) {
  fcntl(Handle(info), F_SETFL, fcntl(Handle(info), F_GETFL) & ~O_DIRECT);
  const ssize_t put = pwrite(Handle(info), bytes, size, offset);
  if (put < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_write(request, static_cast<size_t>(put));
  }
}

struct Stream {
  DIR* directory;
  dirent* next = nullptr;
};
Stream& StreamOf(const fuse_file_info* info) {
  return *reinterpret_cast<Stream*>(info->fh);  // NOLINT
}
void OpenDir(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  const int fd = openat(FdOf(ino), ".", O_RDONLY | O_DIRECTORY);
  DIR* directory = fd < 0 ? nullptr : fdopendir(fd);
  if (directory == nullptr) {
    fuse_reply_err(request, errno);
    return;
  }
  info->fh = reinterpret_cast<uint64_t>(new Stream{directory});
  fuse_reply_open(request, info);
}
void ReleaseDir(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  closedir(StreamOf(info).directory);
  delete &StreamOf(info);
  fuse_reply_err(request, 0);
}
void FsyncDir(fuse_req_t request, fuse_ino_t, int, fuse_file_info* info) {
  ReplyErrno(request, fsync(dirfd(StreamOf(info).directory)));
}

void List(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, Stream& stream,
          bool with_attributes) {
  std::vector<char> buffer(size);
  size_t used = 0;
  seekdir(stream.directory, offset);
  while (const dirent* found = readdir(stream.directory)) {
    const std::string name = found->d_name;
    const bool dots = name == "." || name == "..";
    fuse_entry_param entry = {};
    entry.attr.st_ino = found->d_ino;
    entry.attr.st_mode = static_cast<mode_t>(found->d_type) << 12;
    if (with_attributes && !dots && !Find(ino, name.c_str(), &entry)) continue;
    const size_t needed = with_attributes
                              ? fuse_add_direntry_plus(request, buffer.data() + used, size - used,
                                                       name.c_str(), &entry, found->d_off)
                              : fuse_add_direntry(request, buffer.data() + used, size - used,
                                                  name.c_str(), &entry.attr, found->d_off);
    if (needed > size - used) {
      if (with_attributes && !dots) ForgetOne(entry.ino, 1);
      break;
    }
    used += needed;
  }
  fuse_reply_buf(request, buffer.data(), used);
}
void ReadDir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* info) {
  List(request, ino, size, offset, StreamOf(info), false);
}
void ReadDirPlus(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                 fuse_file_info* info) {
  List(request, ino, size, offset, StreamOf(info), true);
}

void StatFs(fuse_req_t request, fuse_ino_t) {
  struct statvfs result;
  if (fstatvfs(root.fd, &result) != 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_statfs(request, &result);
  }
}

// PathOf leads to the node itself, also where that is a symbolic link.
void SetXattr(fuse_req_t request, fuse_ino_t ino, const char* name, const char* value, size_t size,
              int flags) {
  ReplyErrno(request, setxattr(PathOf(ino).c_str(), name, value, size, flags));
}
void ReplyXattr(fuse_req_t request, size_t size, ssize_t got, const std::vector<char>& value) {
  if (got < 0) {
    fuse_reply_err(request, errno);
  } else if (size == 0) {
    fuse_reply_xattr(request, static_cast<size_t>(got));
  } else {
    fuse_reply_buf(request, value.data(), static_cast<size_t>(got));
  }
}
void GetXattr(fuse_req_t request, fuse_ino_t ino, const char* name, size_t size) {
  std::vector<char> value(size);
  const ssize_t got = getxattr(PathOf(ino).c_str(), name, value.data(), size);
  ReplyXattr(request, size, got, value);
}
void ListXattr(fuse_req_t request, fuse_ino_t ino, size_t size) {
  std::vector<char> value(size);
  const ssize_t got = listxattr(PathOf(ino).c_str(), value.data(), size);
  ReplyXattr(request, size, got, value);
}
void RemoveXattr(fuse_req_t request, fuse_ino_t ino, const char* name) {
  ReplyErrno(request, removexattr(PathOf(ino).c_str(), name));
}

void Fallocate(fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length,
               fuse_file_info* info) {
  ReplyErrno(request, fallocate(Handle(info), mode, offset, length));
}
void Lseek(fuse_req_t request, fuse_ino_t, off_t offset, int whence, fuse_file_info* info) {
  const off_t found = lseek(Handle(info), offset, whence);
  if (found < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_lseek(request, found);
  }
}
void CopyFileRange(fuse_req_t request, fuse_ino_t, off_t from, fuse_file_info* from_info,
                   fuse_ino_t, off_t to, fuse_file_info* to_info, size_t size, int flags) {
  const ssize_t copied = copy_file_range(Handle(from_info), &from, Handle(to_info), &to, size,
                                         static_cast<unsigned>(flags));
  if (copied < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_write(request, static_cast<size_t>(copied));
  }
}

// Those that take or give a structure of the size they say.
void Ioctl(fuse_req_t request, fuse_ino_t ino, unsigned command, void*, fuse_file_info*,
           unsigned flags, const void* in, size_t in_size, size_t out_size) {
  if ((flags & FUSE_IOCTL_COMPAT) != 0) {
    fuse_reply_err(request, ENOSYS);
    return;
  }
  const int fd = open(PathOf(ino).c_str(), O_RDONLY | O_NONBLOCK);
  if (fd < 0) {
    fuse_reply_err(request, errno);
    return;
  }
  std::vector<char> buffer(std::max({in_size, out_size, size_t{8}}));
  memcpy(buffer.data(), in, in_size);
  const int result = ioctl(fd, command, buffer.data());
  const int error = errno;
  close(fd);
  if (result < 0) {
    fuse_reply_err(request, error);
  } else {
    fuse_reply_ioctl(request, result, buffer.data(), out_size);
  }
}

fuse_lowlevel_ops Operations() {
  fuse_lowlevel_ops operations = {};
  operations.init = Init;
  operations.lookup = Lookup;
  operations.forget = Forget;
  operations.forget_multi = ForgetMany;
  operations.getattr = GetAttr;
  operations.setattr = SetAttr;
  operations.readlink = ReadLink;
  operations.mknod = Mknod;
  operations.mkdir = Mkdir;
  operations.symlink = Symlink;
  operations.unlink = Unlink;
  operations.rmdir = Rmdir;
  operations.rename = Rename;
  operations.link = Link;
  operations.open = Open;
  operations.create = Create;
  operations.release = Release;
  operations.flush = Flush;
  operations.fsync = Fsync;
  operations.read = Read;
  operations.write = Write;
  operations.opendir = OpenDir;
  operations.releasedir = ReleaseDir;
  operations.fsyncdir = FsyncDir;
  operations.readdir = ReadDir;
  operations.readdirplus = ReadDirPlus;
  operations.statfs = StatFs;
  operations.setxattr = SetXattr;
  operations.getxattr = GetXattr;
  operations.listxattr = ListXattr;
  operations.removexattr = RemoveXattr;
  operations.fallocate = Fallocate;
  operations.lseek = Lseek;
  operations.copy_file_range = CopyFileRange;
  operations.ioctl = Ioctl;
  return operations;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 || std::string(argv[1]) != "-o") {
    fprintf(stderr, "usage: reference_fs -o OPTION,... DIRECTORY MOUNTPOINT\n");
    return 1;
  }
  root.fd = open(argv[3], O_PATH | O_DIRECTORY);
  struct stat attributes;
  if (root.fd < 0 || fstat(root.fd, &attributes) != 0) {
    perror(argv[3]);
    return 1;
  }
  root.id = {attributes.st_dev, attributes.st_ino};
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);

  char* arguments[] = {argv[0], argv[1], argv[2], nullptr};
  fuse_args parsed = FUSE_ARGS_INIT(3, arguments);
  const fuse_lowlevel_ops operations = Operations();
  fuse_session* session = fuse_session_new(&parsed, &operations, sizeof operations, nullptr);
  if (session == nullptr || fuse_session_mount(session, argv[4]) != 0) return 1;
  if (fuse_daemonize(0) != 0) return 1;
  fuse_session_loop(session);
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return 0;
}
