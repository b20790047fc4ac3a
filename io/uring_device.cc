// SPDX-License-Identifier: Apache-2.0
#include "io/uring_device.h"

#include <utility>

#include "io/device_file.h"
#include "io/transfer_engine.h"

namespace pbfs {
namespace {

class UringDeviceImpl final : public UringDevice {
 public:
  UringDeviceImpl(DeviceFile file, const UringDeviceOptions& options)
      : file_(std::move(file)), warnings_(file_.warnings), engine_(file_, options, warnings_) {}

  const Geometry& geometry() const override { return file_.geometry; }
  void Submit(IoRequest& request) override {
    IoRequest* const one[] = {&request};
    engine_.Submit(one);
  }
  void SubmitBatch(std::span<IoRequest* const> requests) override { engine_.Submit(requests); }
  const std::vector<std::string>& warnings() const override { return warnings_; }
  int fd() const override { return file_.fd; }

 private:
  // Constant after construction. The engine, last, stops before the file closes.
  const DeviceFile file_;
  std::vector<std::string> warnings_;
  TransferEngine engine_;
};

StatusOr<std::unique_ptr<UringDevice>> Make(StatusOr<DeviceFile> file,
                                            const UringDeviceOptions& options) {
  if (!file.ok()) return std::move(file).status();
  return std::unique_ptr<UringDevice>(std::make_unique<UringDeviceImpl>(*std::move(file), options));
}

}  // namespace

StatusOr<std::unique_ptr<UringDevice>> UringDevice::Open(const std::string& path,
                                                         const UringDeviceOptions& options) {
  return Make(OpenDeviceFile(path, options), options);
}

StatusOr<std::unique_ptr<UringDevice>> UringDevice::Adopt(int fd, const std::string& path,
                                                          const UringDeviceOptions& options) {
  return Make(AdoptDeviceFile(fd, path, options), options);
}

}  // namespace pbfs
