//! Large matrix products through NVIDIA's cuBLASLt, if the options give up law 1 for speed and the library is
//! installed.
//!
//! The library is looked up at run time, like the driver. Its algorithms for the expected shapes are chosen while the
//! engine opens, so that a step neither searches nor allocates and can be captured in a graph. Products it does not
//! support run on our own kernels.
//!
//! cuBLASLt is column-major, so it sees a row-major matrix as its transpose. `out = x * weight^T` is therefore computed
//! as `out^T = weight * x^T`, with `weight` as the transposed operand.

use super::driver::Device;
use super::memory::Buffer;
use crate::error::{Error, Result, Status, reserved};
use cudarc::cublaslt::sys;
use std::ffi::c_void;
use std::sync::Arc;

/// Bytes of workspace for an algorithm: NVIDIA's recommendation for Hopper, more than enough for other architectures.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// Up to this many rows our own kernels are used: they read the weight once and are as fast.
const ROWS_FEW: usize = 16;
/// Alignment of results in bytes that the algorithms may assume.
const RESULT_ALIGNMENT: u32 = 16;
const ALIGNMENT: u32 = 256;

/// Converts a status of cuBLASLt to a result. `doing` completes "cuBLASLt failed to ...".
fn check(answer: sys::cublasStatus_t, doing: &str) -> Result<()> {
    if answer == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    let name = format!("{answer:?}");
    let message =
        format!("cuBLASLt failed to {doing} ({name}); open the engine with invariant = 1, which does without");
    Err(Error::new(Status::Device, message).about(name))
}

/// The address of a value, for the attribute setters.
fn at<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

/// The layout of a column-major matrix.
struct MatrixLayout(sys::cublasLtMatrixLayout_t);

impl MatrixLayout {
    fn new(kind: sys::cudaDataType) -> Result<MatrixLayout> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which `drop` destroys.
        check(unsafe { sys::cublasLtMatrixLayoutCreate(&raw mut raw, kind, 1, 1, 1) }, "describe a matrix")?;
        Ok(MatrixLayout(raw))
    }

    /// Sets the size to `columns` contiguous columns of `rows` elements.
    fn set(&self, rows: usize, columns: usize) -> Result<()> {
        use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
        let values = [
            (Attribute::CUBLASLT_MATRIX_LAYOUT_ROWS, rows as u64),
            (Attribute::CUBLASLT_MATRIX_LAYOUT_COLS, columns as u64),
            (Attribute::CUBLASLT_MATRIX_LAYOUT_LD, rows as u64),
        ];
        for (attribute, value) in values {
            // SAFETY: a live layout; all three attributes are integers of 64 bits.
            let answer = unsafe { sys::cublasLtMatrixLayoutSetAttribute(self.0, attribute, at(&value), 8) };
            check(answer, "describe a matrix")?;
        }
        Ok(())
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        unsafe { sys::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// The operation: a product with the first matrix transposed, computed in f32.
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn new() -> Result<Operation> {
        let mut raw = std::ptr::null_mut();
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        // SAFETY: writes one handle, which `drop` destroys.
        check(unsafe { sys::cublasLtMatmulDescCreate(&raw mut raw, compute, scale) }, "describe a product")?;
        let operation = Operation(raw);
        /// CUBLAS_OP_T of cuBLAS, which the bindings of cuBLASLt do not include.
        const TRANSPOSED: i32 = 1;
        let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: a live description; the attribute is an integer of 32 bits.
        let answer = unsafe { sys::cublasLtMatmulDescSetAttribute(raw, which, at(&TRANSPOSED), 4) };
        check(answer, "describe a product")?;
        Ok(operation)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        unsafe { sys::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// Limits for the choice of an algorithm: workspace size and alignments.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Preference> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which `drop` destroys.
        check(unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut raw) }, "describe what it may use")?;
        let preference = Preference(raw);
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: a live preference; sizes and alignments are integers of `bytes` bytes.
            let answer = unsafe { sys::cublasLtMatmulPreferenceSetAttribute(raw, attribute, value, bytes) };
            check(answer, "describe what it may use")
        };
        set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, at(&(WORKSPACE_BYTES as u64)), 8)?;
        set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, at(&ALIGNMENT), 4)?;
        set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, at(&ALIGNMENT), 4)?;
        set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, at(&RESULT_ALIGNMENT), 4)?;
        set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, at(&RESULT_ALIGNMENT), 4)?;
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}

/// A cuBLASLt handle for one device.
struct BlasHandle {
    device: Arc<Device>,
    raw: sys::cublasLtHandle_t,
}

impl Drop for BlasHandle {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: made in `BlasLt::open`; submitted work is finished first, since the library may free memory.
            unsafe {
                cudarc::driver::sys::cuStreamSynchronize(self.device.stream);
                sys::cublasLtDestroy(self.raw);
            }
        }
    }
}

/// The algorithm for weights of one shape and up to `rows_max` rows.
struct Algorithm {
    out_features: usize,
    pitch: usize,
    rows_max: usize,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// A product: `out[rows, out_features] = x[rows, pitch] * weight[out_features, pitch]^T`, added to `out` if
/// `accumulate`. Addresses are device addresses.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub weight: u64,
    pub x: u64,
    pub out: u64,
    pub out_features: usize,
    pub pitch: usize,
    pub rows: usize,
    pub accumulate: bool,
}

/// cuBLASLt for the products of one engine.
pub struct BlasLt {
    operation: Operation,
    /// Layouts of weight, input and result; [`BlasLt::describe`] sets their sizes for each product.
    layouts: [MatrixLayout; 3],
    /// `[out_features, pitch]` of every bf16 matrix, without duplicates.
    shapes: Vec<(usize, usize)>,
    algorithms: Vec<Algorithm>,
    workspace: Option<Buffer>,
    handle: BlasHandle,
}

// SAFETY: the library's objects are not bound to a thread, and have one owner here.
unsafe impl Send for BlasLt {}

impl BlasLt {
    /// Finds the library and creates its objects for a device; the error is a message for the log.
    pub fn open(device: &Arc<Device>) -> std::result::Result<BlasLt, String> {
        // SAFETY: loads the library and closes it again; its initialisers are NVIDIA's.
        if !unsafe { sys::is_culib_present() } {
            return Err("cuBLASLt is not installed; own kernels take all products".into());
        }
        let made = || {
            let _entered = device.enter()?;
            let mut raw = std::ptr::null_mut();
            // SAFETY: a context is current; writes one handle, which `drop` destroys.
            check(unsafe { sys::cublasLtCreate(&raw mut raw) }, "start")?;
            let handle = BlasHandle { device: device.clone(), raw };
            let (bf16, f32) = (sys::cudaDataType_t::CUDA_R_16BF, sys::cudaDataType_t::CUDA_R_32F);
            let layouts = [MatrixLayout::new(bf16)?, MatrixLayout::new(bf16)?, MatrixLayout::new(f32)?];
            Ok(BlasLt {
                operation: Operation::new()?,
                layouts,
                shapes: Vec::new(),
                algorithms: Vec::new(),
                workspace: None,
                handle,
            })
        };
        made().map_err(|error: Error| {
            format!("cuBLASLt cannot be started ({}); own kernels take all products", error.subject)
        })
    }

    /// Registers the shape of a matrix that will be used.
    pub fn expect(&mut self, out_features: usize, pitch: usize) {
        if !self.shapes.contains(&(out_features, pitch)) {
            self.shapes.push((out_features, pitch));
        }
    }

    /// Allocates the workspace, and chooses algorithms for all registered shapes and up to `rows` rows.
    pub fn reserve(&mut self, rows: usize) -> Result<()> {
        self.workspace = Some(Buffer::new(&self.handle.device, WORKSPACE_BYTES, "the workspace of cuBLASLt")?);
        let preference = Preference::new()?;
        let buckets = std::iter::successors(Some(2 * ROWS_FEW), |n| (*n < rows).then(|| 2 * n)).count();
        self.algorithms = reserved("algorithms of products", self.shapes.len() * buckets)?;
        for &(out_features, pitch) in &self.shapes {
            for rows_max in (0..buckets).map(|n| (2 * ROWS_FEW) << n) {
                if let Some(algorithm) = self.find(&preference, out_features, pitch, rows_max)? {
                    self.algorithms.push(Algorithm { out_features, pitch, rows_max, algorithm });
                }
            }
        }
        Ok(())
    }

    fn describe(&self, out_features: usize, pitch: usize, rows: usize) -> Result<()> {
        let [weight, input, result] = &self.layouts;
        weight.set(pitch, out_features)?;
        input.set(pitch, rows)?;
        result.set(out_features, rows)
    }

    /// The best algorithm for a shape, if cuBLASLt supports it.
    fn find(
        &self,
        preference: &Preference,
        out_features: usize,
        pitch: usize,
        rows: usize,
    ) -> Result<Option<sys::cublasLtMatmulAlgo_t>> {
        self.describe(out_features, pitch, rows)?;
        let _entered = self.handle.device.enter()?;
        let [weight, input, result] = self.layouts.each_ref().map(|layout| layout.0);
        let mut found = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut count = 0;
        // SAFETY: all objects live; writes at most one result and their number.
        let answer = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.raw,
                self.operation.0,
                weight,
                input,
                result,
                result,
                preference.0,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        if answer == sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(None);
        }
        check(answer, "choose an algorithm")?;
        let usable = count == 1
            && found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && found.workspaceSize <= WORKSPACE_BYTES;
        Ok(usable.then_some(found.algo))
    }

    /// Submits a product to a stream of the device; false, with nothing submitted, if cuBLASLt is not to be used for it.
    ///
    /// # Safety
    /// The matrices have the sizes given in the product.
    pub unsafe fn multiply(&self, stream: cudarc::driver::sys::CUstream, p: Product) -> Result<bool> {
        let fits = |a: &&Algorithm| (a.out_features, a.pitch) == (p.out_features, p.pitch) && p.rows <= a.rows_max;
        let Some(algorithm) = self.algorithms.iter().find(fits) else { return Ok(false) };
        let (Some(workspace), true) = (&self.workspace, p.out.is_multiple_of(RESULT_ALIGNMENT.into())) else {
            return Ok(false);
        };
        if p.rows <= ROWS_FEW {
            return Ok(false);
        }
        self.describe(p.out_features, p.pitch, p.rows)?;
        let _entered = self.handle.device.enter()?;
        let [weight, input, result] = self.layouts.each_ref().map(|layout| layout.0);
        let (alpha, beta) = (1f32, if p.accumulate { 1f32 } else { 0f32 });
        // SAFETY: all objects live; the caller's promise; the factors are read before the call returns; the products
        // that share the workspace run one after the other in one stream.
        let answer = unsafe {
            sys::cublasLtMatmul(
                self.handle.raw,
                self.operation.0,
                at(&alpha),
                p.weight as *const c_void,
                weight,
                p.x as *const c_void,
                input,
                at(&beta),
                p.out as *const c_void,
                result,
                p.out as *mut c_void,
                result,
                &raw const algorithm.algorithm,
                workspace.address as *mut c_void,
                workspace.bytes,
                stream.cast(),
            )
        };
        // An algorithm chosen for more rows may not support fewer; nothing was submitted then.
        if answer == sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(false);
        }
        check(answer, &format!("multiply {} rows by a matrix of {} x {}", p.rows, p.out_features, p.pitch))?;
        Ok(true)
    }
}
