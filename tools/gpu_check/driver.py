"""NVIDIA's driver and cuBLAS through ctypes: what the card is, and what it can do at most.

Only calls that every driver since CUDA 12.0 has. Each failure is a `Refused` with the driver's own words.
"""

import ctypes
import time

# Bytes of the copy that tells the bandwidth, and how often it is timed.
COPY_BYTES = 1 << 30
COPY_PASSES = 7
# Copies of a pass: enough to hide the time of submitting them.
COPIES = 8
# Side of the square product that tells the rate of bf16, and how often it is timed.
PRODUCT_SIDE = 8192
PRODUCT_PASSES = 7
PRODUCTS = 4
BF16 = 14           # CUDA_R_16BF
F32_SUMS = 68       # CUBLAS_COMPUTE_32F
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76


class Refused(Exception):
    """What cannot be had, and why."""


class Driver:
    """The driver with one device's context current on this thread; close it."""

    def __init__(self, index=0):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Refused(f"NVIDIA's driver is not on this machine ({error})") from None
        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if index >= count.value:
            raise Refused(f"there is no GPU {index}: the driver finds {count.value}")
        self.device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(self.device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), self.device)
        self.call("cuCtxSetCurrent", self.context)

    def call(self, name, *arguments):
        answer = getattr(self.library, name)(*arguments)
        if answer != 0:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(answer, ctypes.byref(text))
            raise Refused(f"{name}: {(text.value or b'error').decode()} ({answer})")

    def close(self):
        self.library.cuCtxSetCurrent(None)
        self.library.cuDevicePrimaryCtxRelease_v2(self.device)

    def facts(self):
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, len(name), self.device)
        total, free, everything, version = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_int()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(total), self.device)
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(everything))
        self.call("cuDriverGetVersion", ctypes.byref(version))
        capability = []
        for which in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), which, self.device)
            capability.append(value.value)
        return {
            "name": name.value.decode(errors="replace"),
            "memory_bytes": total.value,
            "free_bytes": free.value,
            "capability": "{}.{}".format(*capability),
            "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        }

    def alloc(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def free(self, address):
        self.library.cuMemFree_v2(address)

    def wait(self):
        self.call("cuCtxSynchronize")

    def timed(self, times, passes, work):
        """Seconds of one piece of work: the best of some passes of several pieces, after one that is not timed."""
        best = None
        for timed in range(passes + 1):
            self.wait()
            begin = time.perf_counter()
            for _ in range(times):
                work()
            self.wait()
            seconds = (time.perf_counter() - begin) / times
            if timed and (best is None or seconds < best):
                best = seconds
        return best

    def copy_gb_per_s(self, size=COPY_BYTES):
        """Bytes read and written by a copy from the device to itself, in GB/s."""
        source, target = self.alloc(size), None
        try:
            target = self.alloc(size)
            for address in (source, target):
                self.call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), ctypes.c_size_t(size))
            copy = lambda: self.call("cuMemcpyDtoDAsync_v2", target, source, ctypes.c_size_t(size), None)
            return 2 * size / self.timed(COPIES, COPY_PASSES, copy) / 1e9
        finally:
            self.free(source)
            if target is not None:
                self.free(target)

    def cublas_tflops(self, side=PRODUCT_SIDE):
        """Rate of a square bf16 product by cuBLAS, f32 sums, in TFLOP/s."""
        library = None
        for name in ("libcublas.so.13", "libcublas.so.12", "libcublas.so"):
            try:
                library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        if library is None:
            raise Refused("neither torch nor cuBLAS (libcublas.so.12, .13) is on this machine")
        handle = ctypes.c_void_p()

        def call(name, *arguments):
            answer = getattr(library, name)(*arguments)
            if answer != 0:
                raise Refused(f"{name} of cuBLAS: status {answer}")

        call("cublasCreate_v2", ctypes.byref(handle))
        places = []
        try:
            for _ in range(3):
                places.append(self.alloc(side * side * 2))
                # The bits of a small number, so that nothing overflows and no power is saved by zeros.
                self.call("cuMemsetD8_v2", places[-1], ctypes.c_ubyte(0x3C), ctypes.c_size_t(side * side * 2))
            one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
            a, b, c = (ctypes.c_void_p(place.value) for place in places)
            product = lambda: call("cublasGemmEx", handle, 1, 0, side, side, side, ctypes.byref(one), a, BF16, side, b, BF16,
                                   side, ctypes.byref(zero), c, BF16, side, F32_SUMS, -1)
            return 2 * side ** 3 / self.timed(PRODUCTS, PRODUCT_PASSES, product) / 1e12
        finally:
            for place in places:
                self.free(place)
            library.cublasDestroy_v2(handle)
