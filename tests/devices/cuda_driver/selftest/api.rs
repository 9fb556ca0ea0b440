//! The driver's functions as the self-test calls them, and a session: a context, a stream and a module.

use std::ffi::{CString, c_char, c_void};

use crate::cuda_driver::Driver;

/// A function's result: the driver's error.
pub type Outcome = Result<(), i32>;

#[derive(Clone, Copy)]
pub struct Api {
    driver: Driver,
}

macro_rules! functions {
    ($($name:ident => $symbol:literal ($($arg:ident: $type:ty),*);)*) => {
        #[allow(clippy::too_many_arguments, reason = "as the driver has them")]
        impl Api {
            $(pub fn $name(&self, $($arg: $type),*) -> Outcome {
                // SAFETY: the function has this type in the driver's interface.
                let f: unsafe extern "C" fn($($type),*) -> i32 = unsafe { std::mem::transmute(self.driver.symbol($symbol)) };
                // SAFETY: tests give addresses of live variables, or what the stand-in has to refuse.
                match unsafe { f($($arg),*) } {
                    0 => Ok(()),
                    error => Err(error),
                }
            })*
        }
    };
}

pub type Handle = *mut c_void;

functions! {
    init => "cuInit"(flags: u32);
    version => "cuDriverGetVersion"(version: *mut i32);
    device_count => "cuDeviceGetCount"(count: *mut i32);
    device => "cuDeviceGet"(device: *mut i32, ordinal: i32);
    device_name => "cuDeviceGetName"(name: *mut c_char, bytes: i32, device: i32);
    attribute => "cuDeviceGetAttribute"(value: *mut i32, attribute: i32, device: i32);
    total_memory => "cuDeviceTotalMem_v2"(bytes: *mut usize, device: i32);
    retain => "cuDevicePrimaryCtxRetain"(context: *mut Handle, device: i32);
    release => "cuDevicePrimaryCtxRelease_v2"(device: i32);
    set_current => "cuCtxSetCurrent"(context: Handle);
    current => "cuCtxGetCurrent"(context: *mut Handle);
    push => "cuCtxPushCurrent_v2"(context: Handle);
    pop => "cuCtxPopCurrent_v2"(context: *mut Handle);
    synchronize => "cuCtxSynchronize"();
    alloc => "cuMemAlloc_v2"(address: *mut u64, bytes: usize);
    free => "cuMemFree_v2"(address: u64);
    memory_info => "cuMemGetInfo_v2"(free: *mut usize, total: *mut usize);
    alloc_host => "cuMemAllocHost_v2"(memory: *mut *mut c_void, bytes: usize);
    free_host => "cuMemFreeHost"(memory: *mut c_void);
    upload => "cuMemcpyHtoD_v2"(to: u64, from: *const c_void, bytes: usize);
    download => "cuMemcpyDtoH_v2"(to: *mut c_void, from: u64, bytes: usize);
    upload_async => "cuMemcpyHtoDAsync_v2"(to: u64, from: *const c_void, bytes: usize, stream: Handle);
    download_async => "cuMemcpyDtoHAsync_v2"(to: *mut c_void, from: u64, bytes: usize, stream: Handle);
    within_async => "cuMemcpyDtoDAsync_v2"(to: u64, from: u64, bytes: usize, stream: Handle);
    fill_async => "cuMemsetD8Async"(to: u64, value: u8, count: usize, stream: Handle);
    fill32_async => "cuMemsetD32Async"(to: u64, value: u32, count: usize, stream: Handle);
    stream_create => "cuStreamCreate"(stream: *mut Handle, flags: u32);
    stream_destroy => "cuStreamDestroy_v2"(stream: Handle);
    stream_synchronize => "cuStreamSynchronize"(stream: Handle);
    stream_query => "cuStreamQuery"(stream: Handle);
    stream_wait => "cuStreamWaitEvent"(stream: Handle, event: Handle, flags: u32);
    event_create => "cuEventCreate"(event: *mut Handle, flags: u32);
    event_record => "cuEventRecord"(event: Handle, stream: Handle);
    event_synchronize => "cuEventSynchronize"(event: Handle);
    event_query => "cuEventQuery"(event: Handle);
    event_elapsed => "cuEventElapsedTime"(milliseconds: *mut f32, start: Handle, end: Handle);
    event_destroy => "cuEventDestroy_v2"(event: Handle);
    module_load => "cuModuleLoadData"(module: *mut Handle, image: *const c_void);
    module_function => "cuModuleGetFunction"(function: *mut Handle, module: Handle, name: *const c_char);
    module_unload => "cuModuleUnload"(module: Handle);
    function_set => "cuFuncSetAttribute"(function: Handle, attribute: i32, value: i32);
    function_get => "cuFuncGetAttribute"(value: *mut i32, attribute: i32, function: Handle);
    launch => "cuLaunchKernel"(function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32,
        stream: Handle, params: *const *const c_void, extra: *const *const c_void);
    launch_ex => "cuLaunchKernelEx"(config: *const LaunchConfig, function: Handle, params: *const *const c_void,
        extra: *const *const c_void);
    begin_capture => "cuStreamBeginCapture_v2"(stream: Handle, mode: i32);
    end_capture => "cuStreamEndCapture"(stream: Handle, graph: *mut Handle);
    is_capturing => "cuStreamIsCapturing"(stream: Handle, status: *mut i32);
    instantiate => "cuGraphInstantiateWithFlags"(exec: *mut Handle, graph: Handle, flags: u64);
    graph_launch => "cuGraphLaunch"(exec: Handle, stream: Handle);
    graph_exec_destroy => "cuGraphExecDestroy"(exec: Handle);
    graph_destroy => "cuGraphDestroy"(graph: Handle);
    error_name => "cuGetErrorName"(error: i32, name: *mut *const c_char);
}

/// CUlaunchConfig, without attributes.
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub stream: Handle,
    pub attributes: *const c_void,
    pub attribute_count: u32,
}

impl Api {
    pub fn new(driver: &Driver) -> Api {
        Api { driver: *driver }
    }

    /// The address of a parameter.
    pub fn param<T>(value: &T) -> *const c_void {
        std::ptr::from_ref(value).cast()
    }

    /// What a function writes.
    pub fn made<T: Copy>(&self, zero: T, make: impl FnOnce(*mut T) -> Outcome) -> Result<T, i32> {
        let mut value = zero;
        make(&raw mut value)?;
        Ok(value)
    }

    pub fn new_stream(&self) -> Handle {
        self.made(std::ptr::null_mut(), |out| self.stream_create(out, 1)).unwrap()
    }

    pub fn new_event(&self) -> Handle {
        self.made(std::ptr::null_mut(), |out| self.event_create(out, 0)).unwrap()
    }

    pub fn new_memory(&self, bytes: usize) -> u64 {
        self.made(0, |out| self.alloc(out, bytes)).unwrap()
    }

    /// Pinned memory of so many numbers.
    pub fn new_pinned(&self, count: usize) -> Pinned {
        let memory = self.made(std::ptr::null_mut(), |out| self.alloc_host(out, count * 4)).unwrap();
        Pinned { start: memory.cast(), count }
    }
}

/// Pinned numbers; freed by the test.
#[derive(Clone, Copy)]
pub struct Pinned {
    pub start: *mut f32,
    count: usize,
}

impl Pinned {
    pub fn set(&self, value: f32) {
        for i in 0..self.count {
            // SAFETY: inside of the memory, which the test has not freed yet.
            unsafe { self.start.add(i).write_volatile(value) };
        }
    }

    pub fn get(&self) -> Vec<f32> {
        // SAFETY: as above.
        (0..self.count).map(|i| unsafe { self.start.add(i).read_volatile() }).collect()
    }

    pub fn address(&self) -> *mut c_void {
        self.start.cast()
    }
}

/// A context that is current, a stream that blocks nothing, and a module.
pub struct Session {
    pub api: Api,
    pub context: Handle,
    pub stream: Handle,
    pub module: Handle,
}

impl Session {
    pub fn new(driver: &Driver) -> Session {
        let api = Api::new(driver);
        api.init(0).unwrap();
        let context = api.made(std::ptr::null_mut(), |out| api.retain(out, 0)).unwrap();
        api.set_current(context).unwrap();
        let stream = api.new_stream();
        let module = api.made(std::ptr::null_mut(), |out| api.module_load(out, b"image".as_ptr().cast())).unwrap();
        Session { api, context, stream, module }
    }

    pub fn function(&self, name: &str) -> Result<Handle, i32> {
        let name = CString::new(name).unwrap();
        self.api.made(std::ptr::null_mut(), |out| self.api.module_function(out, self.module, name.as_ptr()))
    }

    pub fn launch(&self, name: &str, grid: [u32; 3], block: u32, shared: u32, params: &[*const c_void]) -> Outcome {
        self.launch_in(self.stream, name, grid, block, shared, params)
    }

    pub fn launch_in(
        &self,
        stream: Handle,
        name: &str,
        [x, y, z]: [u32; 3],
        block: u32,
        shared: u32,
        params: &[*const c_void],
    ) -> Outcome {
        let function = self.function(name)?;
        self.api.launch(function, x, y, z, block, 1, 1, shared, stream, params.as_ptr(), std::ptr::null())
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let address = self.api.new_memory(bytes);
        self.api.upload_async(address, values.as_ptr().cast(), bytes, self.stream).unwrap();
        address
    }

    /// After all that the stream has to do.
    pub fn download<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let bytes = count * size_of::<T>();
        self.api.download_async(values.as_mut_ptr().cast(), address, bytes, self.stream).unwrap();
        self.api.stream_synchronize(self.stream).unwrap();
        values
    }
}

impl Drop for Session {
    /// The context goes, and takes along what a test has left.
    fn drop(&mut self) {
        let _ = self.api.set_current(std::ptr::null_mut());
        let _ = self.api.release(0);
    }
}
