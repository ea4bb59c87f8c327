//! Every kernel against its twin, on a device, at odd sizes and in every form.

mod attention;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod epilogues;
mod experts;
mod finite;
mod overlap;
mod products;
mod reference;
mod sampling;
mod settle;

use super::case::bound;
use super::device::{Gpu, choose};
use super::{DeviceChoice, Forms, Options};
use crate::kernels::vector::Activations;
use crate::kernels::{Kv, Math, Shader, squares};
use crate::quant::GROUP;

const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

fn gpu(math: Math, forms: Forms) -> Gpu {
    gpu_with(math, if math == Math::F32 && forms.checked { Kv::F32 } else { Kv::F16 }, forms)
}

fn gpu_with(math: Math, kv: Kv, forms: Forms) -> Gpu {
    let adapter = choose(&DeviceChoice::Gpu).unwrap().unwrap();
    let options = Options { math: Some(math), kv: Some(kv), forms, ..Options::default() };
    Gpu::open(&adapter, &options).unwrap()
}

/// What the least of adapters offers.
fn plain() -> Forms {
    Forms { no_subgroups: true, no_coherent: true, checked: true, whole_vectors: true, ..Forms::default() }
}

/// The forms that kernels have, each on its own device.
fn forms() -> Vec<Gpu> {
    let plain = plain();
    vec![
        gpu(Math::F32, Forms::default()),
        gpu(Math::F32, plain),
        gpu(Math::F16, Forms::default()),
        gpu(Math::F16, Forms { no_f16: true, ..plain }),
        gpu(Math::Int16, Forms::default()),
        gpu(Math::Int8, plain),
    ]
}

/// Numbers in -1 to 1, the same ones for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / f32::from(1u16 << 12) / f32::from(1u16 << 11) - 1.0
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn upload<T: bytemuck::Pod>(gpu: &Gpu, data: &[T]) -> wgpu::Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let buffer = gpu.buffer("test", bytes.len() as u64, STORAGE).unwrap();
    gpu.queue.write_buffer(&buffer, 0, bytes);
    buffer
}

fn download<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<T> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let landing = gpu.buffer("test", buffer.size(), usage).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &landing, 0, buffer.size());
    let index = gpu.queue.submit([encoder.finish()]);
    landing.slice(..).map_async(wgpu::MapMode::Read, |r| r.unwrap());
    gpu.wait(&index).unwrap();
    let view = landing.slice(..).get_mapped_range().unwrap();
    bytemuck::pod_collect_to_vec(&view)
}

fn run(gpu: &Gpu, shader: &Shader, buffers: &[&wgpu::Buffer], args: &[u8], grid: [u32; 3]) {
    let pipeline = gpu.pipeline(shader).unwrap();
    let ranges: Vec<_> = buffers.iter().map(|b| (*b).into()).collect();
    let group = gpu.bind(&pipeline, &ranges);
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_immediates(0, args);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }
    let index = gpu.queue.submit([encoder.finish()]);
    gpu.wait(&index).unwrap();
}

/// Activations of several tokens in device memory.
fn upload_acts(gpu: &Gpu, acts: &[Activations]) -> [wgpu::Buffer; 3] {
    let numbers: Vec<u8> = acts.iter().flat_map(|a| a.stored(gpu.form.math)).collect();
    let records: Vec<[f32; 2]> = acts.iter().flat_map(Activations::stored_records).collect();
    let of_token = |a: &Activations| {
        let mut all: Vec<f32> = a.records.iter().map(|r| r.squares).collect();
        all.resize(squares(a.numbers.len()), 0.0);
        all
    };
    let squares: Vec<f32> = acts.iter().flat_map(of_token).collect();
    [upload(gpu, &numbers), upload(gpu, &records), upload(gpu, &squares)]
}

/// Activations as values, with their records.
fn download_acts(gpu: &Gpu, numbers: &wgpu::Buffer, records: &wgpu::Buffer) -> (Vec<f32>, Vec<[f32; 2]>) {
    let records: Vec<[f32; 2]> = download(gpu, records);
    let values = Activations::values_of(gpu.form.math, &download::<u8>(gpu, numbers), &records);
    (values, records)
}

/// Root mean square of the difference against that of what is wanted.
fn close(what: &str, got: &[f32], want: &[f32], bound: f64) {
    assert!(got.len() >= want.len(), "{what}: {} of {}", got.len(), want.len());
    let square = |v: f64| v * v;
    let error: f64 = want.iter().zip(got).map(|(w, g)| square(f64::from(*w) - f64::from(*g))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    let relative = (error / norm.max(1e-30)).sqrt();
    assert!(relative < bound, "{what}: relative error {relative:.1e}");
}

/// Activations of the device, from element `at` on, are those that are wanted, with their sums.
fn close_acts(
    gpu: &Gpu,
    what: &str,
    (values, records): &(Vec<f32>, Vec<[f32; 2]>),
    at: usize,
    want: &Activations,
) {
    let wanted = want.values();
    close(&format!("{what}: activations"), &values[at..], &wanted, bound(gpu, true));
    // Sums cancel: what they may be off by is measured against the sum of magnitudes.
    let size: Vec<f32> = wanted.chunks(GROUP).map(|group| group.iter().map(|v| v.abs()).sum()).collect();
    let records = &records[at / GROUP..at / GROUP + size.len()];
    let got: Vec<f32> = records.iter().zip(&size).map(|(r, size)| r[1] + 2.0 * size).collect();
    let sums: Vec<f32> = want.records.iter().zip(&size).map(|(r, size)| r.sum + 2.0 * size).collect();
    close(&format!("{what}: sums"), &got, &sums, bound(gpu, true).max(1e-4));
}
