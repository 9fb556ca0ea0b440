//! Every operation of the backend trait as the library submits it, against the CPU's reference tier.

use crate::cuda_driver::Driver;
use crate::operations::{ALL, Bench, agree, reference, rows_stand_alone};
use astrai::Status;
use astrai::backend::cpu::Compute;
use astrai::backend::device::{Device, DeviceOptions, probe};
use astrai::backend::{FrameContent, KvShape};
use astrai::dtype::DType;

fn bench(compute: Compute, dtype: DType) -> Bench {
    let options = DeviceOptions { compute, ..DeviceOptions::default() };
    Bench::new(&*probe(Device::Cuda, options).unwrap(), dtype)
}

pub fn operations_agree_with_the_reference() {
    for (compute, dtype, tolerance) in [
        (Compute::F32, DType::F32, 5e-5),
        // Inputs of products are rounded to bf16, two or three times one after the other.
        (Compute::Bf16, DType::Bf16, 3e-2),
    ] {
        let expected = reference(dtype).step(&ALL);
        agree(&format!("{compute:?}"), &bench(compute, dtype).step(&ALL), &expected, tolerance);
        rows_stand_alone(&format!("{compute:?}"), &|| bench(compute, dtype));
    }
}

/// Heads are as wide as there are kernels for; wider ones are refused before anything is opened.
pub fn heads_of_all_widths_that_there_are() {
    let device = probe(Device::Cuda, DeviceOptions::default()).unwrap();
    let check = |k_dim, v_dim, dtype| {
        device.check_kv(&KvShape {
            layers: 1,
            frames: 1,
            page_tokens: 16,
            kv_heads: 1,
            k_dim,
            v_dim,
            dtype,
            content: FrameContent::KeysValues,
        })
    };
    for dim in [64, 80, 96, 112, 128, 192, 256, 512] {
        for dtype in [DType::Bf16, DType::I8, DType::F32] {
            check(dim, dim, dtype).unwrap();
            check(dim, 128, dtype).unwrap();
        }
    }
    check(520, 520, DType::F32).unwrap();
    for (k_dim, v_dim, dtype) in
        [(520, 64, DType::Bf16), (64, 528, DType::I8), (68, 68, DType::Bf16), (72, 72, DType::I8)]
    {
        let error = check(k_dim, v_dim, dtype).unwrap_err();
        assert_eq!(error.status, Status::Unsupported, "{error}");
    }
}

/// Steps of one row of each sequence: the first is submitted, the second recorded, the third a replay.
pub fn recorded_operations_compute_the_same(driver: &Driver) {
    for compute in [Compute::F32, Compute::Bf16] {
        let mut bench = bench(compute, if compute == Compute::F32 { DType::F32 } else { DType::Bf16 });
        let first = bench.step(&[0, 3]);
        bench.step(&[0, 3]);
        let before = driver.counts().graph_launches;
        let third = bench.step(&[0, 3]);
        assert_eq!(driver.counts().graph_launches, before + 1, "the third step is a replay");
        let bits = |outcomes: &[crate::operations::Outcome]| -> Vec<u32> {
            outcomes.iter().flat_map(|(_, rows)| rows.iter().flatten().map(|v| v.to_bits())).collect()
        };
        assert_eq!(bits(&third), bits(&first));
    }
}
