// SPDX-License-Identifier: Apache-2.0
// Locks of files: fcntl(2) of processes and of open file descriptions, flock(2), leases.
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

int Lock(int fd, int command, int type, off_t start = 0, off_t length = 0) {
  struct flock lock = {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return fcntl(fd, command, &lock);
}

class Locks : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    WriteFile("f", "0123456789");
  }
};

TEST_F(Locks, OfProcesses) {
  File file("f", O_RDWR);
  ASSERT_OK(Lock(file, F_SETLK, F_WRLCK, 0, 4));
  ASSERT_OK(Lock(file, F_SETLK, F_RDLCK, 4, 4));
  EXPECT_OK(Lock(File("f", O_RDWR), F_GETLK, F_WRLCK));
  ASSERT_OK(Lock(file, F_SETLK, F_WRLCK, 0, 4));  // The other descriptor's end released them.
  ASSERT_OK(Lock(file, F_SETLK, F_RDLCK, 4, 4));
  const pid_t owner = getpid();
  InChild([&] {
    File other("f", O_RDWR);
    EXPECT_FAILS(EAGAIN, Lock(other, F_SETLK, F_WRLCK, 3, 1));
    EXPECT_FAILS(EAGAIN, Lock(other, F_SETLK, F_RDLCK, 0, 1));
    EXPECT_OK(Lock(other, F_SETLK, F_RDLCK, 4, 4));
    EXPECT_FAILS(EAGAIN, Lock(other, F_SETLK, F_WRLCK, 4, 1));
    EXPECT_OK(Lock(other, F_SETLK, F_WRLCK, 8, 0));
    struct flock found = {};
    found.l_type = F_WRLCK;
    found.l_whence = SEEK_SET;
    EXPECT_OK(fcntl(other, F_GETLK, &found));
    EXPECT_EQ(found.l_type, F_WRLCK);
    EXPECT_EQ(found.l_pid, owner);
    EXPECT_EQ(found.l_start, 0);
    EXPECT_EQ(found.l_len, 4);
  });
}

TEST_F(Locks, OfProcessesGoWithAnyDescriptor) {
  File file("f", O_RDWR);
  ASSERT_OK(Lock(file, F_SETLK, F_WRLCK));
  File("f", O_RDONLY).Close();
  InChild([] { EXPECT_OK(Lock(File("f", O_RDWR), F_SETLK, F_WRLCK)); });
}

TEST_F(Locks, OfOpenFileDescriptions) {
  File a("f", O_RDWR), b("f", O_RDWR);
  ASSERT_OK(Lock(a, F_OFD_SETLK, F_WRLCK, 0, 5));
  EXPECT_FAILS(EAGAIN, Lock(b, F_OFD_SETLK, F_RDLCK, 0, 1));
  EXPECT_OK(Lock(b, F_OFD_SETLK, F_WRLCK, 5, 5));
  File("f", O_RDONLY).Close();  // Does not release them.
  EXPECT_FAILS(EAGAIN, Lock(b, F_OFD_SETLK, F_RDLCK, 0, 1));
  InChild([&] {
    EXPECT_OK(Lock(a, F_OFD_SETLK, F_WRLCK, 0, 5));  // Inherited.
    EXPECT_FAILS(EAGAIN, Lock(File("f", O_RDWR), F_SETLK, F_WRLCK));
  });
  a.Close();
  EXPECT_OK(Lock(b, F_OFD_SETLK, F_WRLCK));
}

TEST_F(Locks, WaitingForOne) {
  File file("f", O_RDWR);
  ASSERT_OK(Lock(file, F_OFD_SETLK, F_WRLCK));
  InChild([&] {
    const pid_t waiter = fork();
    if (waiter == 0) {
      File other("f", O_RDWR);
      _exit(Lock(other, F_OFD_SETLKW, F_WRLCK) == 0 ? 0 : 1);
    }
    usleep(50'000);
    int status = 0;
    EXPECT_EQ(waitpid(waiter, &status, WNOHANG), 0) << "did not wait";
    EXPECT_OK(Lock(file, F_OFD_SETLK, F_UNLCK));
    EXPECT_EQ(waitpid(waiter, &status, 0), waiter);
    EXPECT_EQ(status, 0);
  });
}

TEST_F(Locks, ADeadlockIsFound) {
  InChild([] {
    File file("f", O_RDWR);
    ASSERT_OK(Lock(file, F_SETLK, F_WRLCK, 0, 1));
    int ready[2];
    ASSERT_OK(pipe(ready));
    const pid_t other = fork();
    if (other == 0) {
      File own("f", O_RDWR);
      if (Lock(own, F_SETLK, F_WRLCK, 1, 1) != 0 || write(ready[1], "x", 1) != 1) _exit(1);
      _exit(Lock(own, F_SETLKW, F_WRLCK, 0, 1) == 0 ? 0 : 1);
    }
    char byte;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    usleep(100'000);
    EXPECT_FAILS(EDEADLK, Lock(file, F_SETLKW, F_WRLCK, 1, 1));
    EXPECT_OK(Lock(file, F_SETLK, F_UNLCK));
    int status = 0;
    EXPECT_EQ(waitpid(other, &status, 0), other);
    EXPECT_EQ(status, 0);
  });
}

TEST_F(Locks, NeedTheRightsOfTheDescriptor) {
  File reader("f", O_RDONLY), writer("f", O_WRONLY);
  EXPECT_FAILS(EBADF, Lock(reader, F_SETLK, F_WRLCK));
  EXPECT_FAILS(EBADF, Lock(writer, F_SETLK, F_RDLCK));
  EXPECT_FAILS(EINVAL, Lock(reader, F_SETLK, F_RDLCK, -1, 1));
}

TEST_F(Locks, Flock) {
  File a("f", O_RDONLY), b("f", O_RDONLY);
  EXPECT_OK(flock(a, LOCK_SH));
  EXPECT_OK(flock(b, LOCK_SH));
  EXPECT_FAILS(EWOULDBLOCK, flock(a, LOCK_EX | LOCK_NB));
  EXPECT_OK(flock(b, LOCK_UN));
  EXPECT_OK(flock(a, LOCK_EX | LOCK_NB));
  EXPECT_FAILS(EWOULDBLOCK, flock(b, LOCK_SH | LOCK_NB));
  // It knows nothing of the other kind of locks.
  EXPECT_OK(Lock(b, F_SETLK, F_RDLCK));
  a.Close();
  EXPECT_OK(flock(b, LOCK_EX | LOCK_NB));
  File directory(".", O_RDONLY);
  EXPECT_OK(flock(directory, LOCK_EX | LOCK_NB));
}

TEST_F(Locks, Leases) {
  File file("f", O_RDONLY);
  ASSERT_OK(fcntl(file, F_SETLEASE, F_RDLCK));
  EXPECT_EQ(fcntl(file, F_GETLEASE), F_RDLCK);
  EXPECT_OK(TryOpen("f", O_RDONLY));
  static volatile sig_atomic_t broken;
  broken = 0;
  const auto old = signal(SIGIO, [](int) { broken = 1; });
  EXPECT_FAILS(EWOULDBLOCK, TryOpen("f", O_WRONLY | O_NONBLOCK));
  for (int i = 0; i < 100 && broken == 0; ++i) usleep(10'000);
  EXPECT_EQ(broken, 1);
  EXPECT_OK(fcntl(file, F_SETLEASE, F_UNLCK));
  EXPECT_OK(TryOpen("f", O_WRONLY | O_NONBLOCK));
  signal(SIGIO, old);
  File writer("f", O_RDWR);
  EXPECT_FAILS(EAGAIN, fcntl(file, F_SETLEASE, F_RDLCK));
}

}  // namespace
}  // namespace pbfs::posix
