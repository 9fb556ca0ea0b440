//! The embedded kernel code, its kernels by name, and their launch.
//!
//! The lists below must match the entries in `kernels/*.cu`; a test compares them.

use super::driver::{Device, Owned, check};
use crate::dtype::BlockFormat;
use crate::error::{Error, Result, Status};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

/// Dynamic shared memory in bytes that any kernel may use; more requires an attribute.
const SHARED_USUAL: u32 = 48 << 10;

/// A kernel that has been loaded.
#[derive(Clone, Copy)]
pub struct Function {
    raw: sys::CUfunction,
    pub name: &'static str,
    /// The most dynamic shared memory that a block of it needs, in bytes.
    pub shared: usize,
    /// Maximum dynamic shared memory of a block, in bytes.
    shared_max: u32,
}

// SAFETY: as for `Device`; a function lives as long as its module.
unsafe impl Send for Function {}

impl Function {
    /// Whether a block of it may use `shared` bytes of dynamic shared memory on this device.
    pub fn fits(&self, shared: usize) -> bool {
        shared <= self.shared_max as usize
    }
}

/// A loaded module.
pub struct Module(Owned<sys::CUmodule>);

/// Aligns an embedded fat binary: the driver may read its headers of 64-bit numbers in place.
#[repr(align(64))]
struct Image<T: ?Sized>(T);

/// The GPU architectures for which the library contains machine code, as configured at build time.
const TARGETS: &str = env!("ASTRAI_CUDA_TARGETS");
/// CUDA version of the compiler: 1000 * major + 10 * minor.
const COMPILER_VERSION: &str = env!("ASTRAI_CUDA_VERSION");

impl Module {
    /// Loads a fat binary.
    pub fn load(device: &Arc<Device>, name: &str, image: &[u8]) -> Result<Module> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: a context is current; the image is a whole fat binary, made by the build.
        let answer = unsafe { sys::cuModuleLoadData(&raw mut raw, image.as_ptr().cast()) };
        check(answer, &format!("load the kernels of {name}")).map_err(|error| match answer {
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                let (major, minor) = device.info.capability;
                let version = |v: u32| format!("{}.{}", v / 1000, v % 1000 / 10);
                Error::new(
                    Status::Device,
                    format!(
                        "the driver (CUDA {}) cannot load this library's kernels for {}, of compute capability {major}.{minor}: \
                         they were compiled by CUDA {} for {TARGETS} and as PTX ({}); update the driver",
                        version(device.info.driver_version),
                        device.info.name,
                        version(COMPILER_VERSION.parse().unwrap_or(0)),
                        error.subject,
                    ),
                )
                .about("device")
            }
            _ => error,
        })?;
        // SAFETY: just loaded; its kernels have finished before it goes.
        Ok(Module(unsafe { Owned::new(device, raw, sys::cuModuleUnload, true) }))
    }

    /// One of its kernels; `shared` is the most dynamic shared memory that it needs, in bytes.
    pub fn function(&self, name: &'static str, shared: usize) -> Result<Function> {
        let symbol = CString::new(name).map_err(|_| Error::internal("a kernel's name has a zero byte"))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live module and a string that ends in zero; writes one handle.
        let answer = unsafe { sys::cuModuleGetFunction(&raw mut raw, self.0.handle, symbol.as_ptr()) };
        check(answer, &format!("find the kernel {name}"))?;
        let mut function = Function { raw, name, shared, shared_max: SHARED_USUAL };
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        if shared > SHARED_USUAL && shared <= self.0.device.info.block_shared_bytes {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a live function; the device allows that much.
            let answer = unsafe { sys::cuFuncSetAttribute(raw, which, shared as c_int) };
            check(answer, &format!("give the kernel {name} {shared} bytes of shared memory"))?;
            function.shared_max = shared;
        }
        Ok(function)
    }
}

/// Declares [`Kernels`]: for each module its kernels, with the most dynamic shared memory they need.
macro_rules! kernels {
    ($($module:ident { $($name:ident $(: $shared:expr)?),* $(,)? })*) => {
        /// All kernels.
        pub struct Kernels {
            $($(pub $name: Function,)*)*
            /// Declared after the functions, because they need the modules.
            _modules: Vec<Module>,
        }

        impl Kernels {
            /// Loads all modules onto the device.
            pub fn load(device: &Arc<Device>) -> Result<Kernels> {
                let _entered = device.enter()?;
                $(let $module = Module::load(
                    device,
                    stringify!($module),
                    {
                        static IMAGE: &Image<[u8]> =
                            &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/", stringify!($module), ".fatbin")));
                        &IMAGE.0
                    },
                )?;)*
                Ok(Kernels {
                    $($($name: $module.function(stringify!($name), 0 $(+ $shared)?)?,)*)*
                    _modules: vec![$($module),*],
                })
            }

            /// A kernel by its name.
            pub fn named(&self, name: &str) -> Option<Function> {
                match name {
                    $($(stringify!($name) => Some(self.$name),)*)*
                    _ => None,
                }
            }

            /// The names of the kernels, by module.
            pub fn names() -> Vec<(&'static str, Vec<&'static str>)> {
                vec![$((stringify!($module), vec![$(stringify!($name)),*])),*]
            }
        }
    };
}

kernels! {
    attention {
        attention_bf16_64x16: attention_shared(false, 64, 16, false),
        attention_bf16_64x64: attention_shared(false, 64, 64, false),
        attention_bf16_128x16: attention_shared(false, 128, 16, false),
        attention_bf16_128x64: attention_shared(false, 128, 64, false),
        attention_bf16_256x16: attention_shared(false, 256, 16, false),
        attention_bf16_256x64: attention_shared(false, 256, 64, false),
        attention_i8_64x16: attention_shared(true, 64, 16, false),
        attention_i8_64x64: attention_shared(true, 64, 64, false),
        attention_i8_128x16: attention_shared(true, 128, 16, false),
        attention_i8_128x64: attention_shared(true, 128, 64, false),
        attention_i8_256x16: attention_shared(true, 256, 16, false),
        attention_i8_256x64: attention_shared(true, 256, 64, false),
        attention_bf16_512x16: attention_shared(false, 512, 16, false),
        attention_i8_512x16: attention_shared(true, 512, 16, false),
        attention_bf16_576x16: attention_shared(false, 576, 16, false),
        attention_i8_576x16: attention_shared(true, 576, 16, false),
        attention_merge, attention_f32,
    }
    linear {
        linear_few8_bf16, linear_few16_bf16, linear_few32_bf16,
        linear_few8_q8, linear_few16_q8, linear_few32_q8,
        linear_few8_q4, linear_few16_q4, linear_few32_q4,
        linear_64x64_bf16: 98_304, linear_128x128_bf16: 98_304,
        linear_128x64_q8: 84_480, linear_128x128_q8: 75_264,
        linear_128x64_q4: 89_600, linear_128x128_q4: 62_976,
        linear_f32,
    }
    blocks {
        linear_few8_q4_0, linear_few32_q4_0, linear_128x64_q4_0: 52_224, embed_q4_0,
        linear_few8_q4_1, linear_few32_q4_1, linear_128x64_q4_1: 55_296, embed_q4_1,
        linear_few8_q5_0, linear_few32_q5_0, linear_128x64_q5_0: 52_224, embed_q5_0,
        linear_few8_q5_1, linear_few32_q5_1, linear_128x64_q5_1: 55_296, embed_q5_1,
        linear_few8_q8_0, linear_few32_q8_0, linear_128x64_q8_0: 52_224, embed_q8_0,
        linear_few8_q2_k, linear_few32_q2_k, linear_128x64_q2_k: 61_440, embed_q2_k,
        linear_few8_q3_k, linear_few32_q3_k, linear_128x64_q3_k: 55_296, embed_q3_k,
        linear_few8_q4_k, linear_few32_q4_k, linear_128x64_q4_k: 55_296, embed_q4_k,
        linear_few8_q5_k, linear_few32_q5_k, linear_128x64_q5_k: 55_296, embed_q5_k,
        linear_few8_q6_k, linear_few32_q6_k, linear_128x64_q6_k: 55_296, embed_q6_k,
        linear_few8_iq4_nl, linear_few32_iq4_nl, linear_128x64_iq4_nl: 52_224, embed_iq4_nl,
        linear_few8_iq4_xs, linear_few32_iq4_xs, linear_128x64_iq4_xs: 52_224, embed_iq4_xs,
        linear_few8_mxfp4, linear_few32_mxfp4, linear_128x64_mxfp4: 52_224, embed_mxfp4,
    }
    norm { norm_rows, place_heads_bf16, place_heads_f32, place_heads_i8 }
    elementwise {
        embed_bf16, embed_f32, gather_rows, rotary_angles, round_rows, gate_elements, gate_rows, gate_mul,
        scale_by_position, fill_elements, scale_elements, cap_elements, add_scaled,
        fill_random_bf16, fill_random_f32, fill_random_q8, fill_random_q4,
    }
    recurrent { conv_rows, recurrence_rows }
    heads { head_products_bf16, head_products_f32 }
    experts { experts_route, experts_count, experts_place, experts_combine }
    sampling { adjust_logits, best_in_chunks, best_of_chunks, sample_rows, logprob_rows }
}

/// The kernels for weights in blocks of one format.
#[derive(Clone, Copy)]
pub struct BlockKernels {
    pub few8: Function,
    pub few32: Function,
    pub tile_128x64: Function,
    pub embed: Function,
}

impl Kernels {
    /// Those of a block format.
    pub fn of_blocks(&self, format: BlockFormat) -> BlockKernels {
        macro_rules! of {
            ($few8:ident, $few32:ident, $tile:ident, $embed:ident) => {
                BlockKernels { few8: self.$few8, few32: self.$few32, tile_128x64: self.$tile, embed: self.$embed }
            };
        }
        match format {
            BlockFormat::Q4_0 => of!(linear_few8_q4_0, linear_few32_q4_0, linear_128x64_q4_0, embed_q4_0),
            BlockFormat::Q4_1 => of!(linear_few8_q4_1, linear_few32_q4_1, linear_128x64_q4_1, embed_q4_1),
            BlockFormat::Q5_0 => of!(linear_few8_q5_0, linear_few32_q5_0, linear_128x64_q5_0, embed_q5_0),
            BlockFormat::Q5_1 => of!(linear_few8_q5_1, linear_few32_q5_1, linear_128x64_q5_1, embed_q5_1),
            BlockFormat::Q8_0 => of!(linear_few8_q8_0, linear_few32_q8_0, linear_128x64_q8_0, embed_q8_0),
            BlockFormat::Q2K => of!(linear_few8_q2_k, linear_few32_q2_k, linear_128x64_q2_k, embed_q2_k),
            BlockFormat::Q3K => of!(linear_few8_q3_k, linear_few32_q3_k, linear_128x64_q3_k, embed_q3_k),
            BlockFormat::Q4K => of!(linear_few8_q4_k, linear_few32_q4_k, linear_128x64_q4_k, embed_q4_k),
            BlockFormat::Q5K => of!(linear_few8_q5_k, linear_few32_q5_k, linear_128x64_q5_k, embed_q5_k),
            BlockFormat::Q6K => of!(linear_few8_q6_k, linear_few32_q6_k, linear_128x64_q6_k, embed_q6_k),
            BlockFormat::Iq4Nl => of!(linear_few8_iq4_nl, linear_few32_iq4_nl, linear_128x64_iq4_nl, embed_iq4_nl),
            BlockFormat::Iq4Xs => of!(linear_few8_iq4_xs, linear_few32_iq4_xs, linear_128x64_iq4_xs, embed_iq4_xs),
            BlockFormat::Mxfp4 => of!(linear_few8_mxfp4, linear_few32_mxfp4, linear_128x64_mxfp4, embed_mxfp4),
        }
    }
}

/// Dynamic shared memory of `attention_*_<dim>x<queries>` in bytes: queries; the stages of keys and values, with scale
/// factors for 8-bit pages (`bytes`); and totals, unless the keys are split. Heads of more than 256 elements have one stage for 256
/// elements of keys or of values. Must match `Shared` and `SharedWide` of `kernels/attention_tile.cuh`.
pub const fn attention_shared(bytes: bool, dim: usize, queries: usize, split: bool) -> usize {
    let stages = if dim >= 256 && queries == 16 { 1 } else { 2 };
    let factors = if bytes { 2 * 64 * 4 } else { 0 };
    let tile = if dim > 256 { 64 * 256 * 2 } else { 2 * 64 * dim * 2 };
    let values = if dim > 512 { 512 } else { dim };
    queries * dim * 2 + stages * (tile + factors) + if split { 0 } else { queries * values * 4 }
}

/// The dimensions of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [usize; 3],
    /// Threads per block.
    pub block: usize,
    /// Dynamic shared memory per block, in bytes.
    pub shared: usize,
}

/// The address of a launch parameter.
pub fn arg<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Submits a kernel to a stream of the device.
///
/// # Safety
/// `params` has the address of one value of the right type for each parameter of the kernel; device memory that those
/// point to is large enough for the shape.
pub unsafe fn launch(
    device: &Device,
    stream: sys::CUstream,
    function: Function,
    shape: Shape,
    params: &mut [*mut c_void],
) -> Result<()> {
    if shape.grid.contains(&0) {
        return Ok(());
    }
    let _entered = device.enter()?;
    let [x, y, z] = shape.grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    // SAFETY: the caller's promise; the driver copies the parameters before it returns and checks the shape.
    let answer = unsafe {
        sys::cuLaunchKernel(
            function.raw,
            x,
            y,
            z,
            shape.block as u32,
            1,
            1,
            shape.shared as u32,
            stream,
            params.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    check(answer, "start a kernel").map_err(|mut error| {
        error.message = format!("{} [{} {shape:?}]", error.message, function.name);
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry of every source is loaded, and nothing else.
    #[test]
    fn the_lists_are_those_of_the_sources() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        for (module, mut names) in Kernels::names() {
            let text = std::fs::read_to_string(folder.join(format!("{module}.cu"))).unwrap();
            let first_words = |start: &'static str| {
                text.lines().filter_map(move |line| Some(line.strip_prefix(start)?.split([',', ')']).next()?.trim()))
            };
            let starts = ["ENTRY(", "ATTENTION(", "WIDE(", "FEW(", "TILED("];
            let mut entries: Vec<String> = starts.into_iter().flat_map(first_words).map(str::to_owned).collect();
            let blocks = ["linear_few8", "linear_few32", "linear_128x64", "embed"];
            entries.extend(first_words("BLOCKS(").flat_map(|format| blocks.map(|kernel| format!("{kernel}_{format}"))));
            // The definitions of the macros do not begin a line this way.
            entries.sort_unstable();
            names.sort_unstable();
            assert_eq!(names, entries, "{module}.cu");
        }
    }
}
