//! Adapters, and a device with what the kernels need of it.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rayon::prelude::*;
use serde::Serialize;
use wgpu::{DeviceType, Features};

use super::overlap;
use super::tune::Table;
use super::{DeviceChoice, Options};
use crate::kernels::{Form, Kv, Math, POLLS, Shader};
use crate::{Error, Result, threads};

/// How long a wait goes on before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// What `infer devices` says of an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// Its number, for `--device`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// discrete, integrated, virtual, cpu or other.
    #[serde(rename = "type")]
    pub kind: String,
    /// The API it is reached through.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Bytes of its own memory, where that can be told.
    pub memory_bytes: Option<u64>,
    /// Lanes of the smallest subgroup.
    pub subgroup_min: u32,
    /// Lanes of the largest subgroup.
    pub subgroup_max: u32,
    /// What it offers of what the kernels can use.
    pub features: BTreeMap<&'static str, bool>,
    /// `--device auto` takes this one.
    pub auto: bool,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // Validation layers are a debugging tool; errors reach us through error scopes without them.
    descriptor.flags = wgpu::InstanceFlags::empty();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
}

fn adapters() -> Vec<wgpu::Adapter> {
    pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()))
}

fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        DeviceType::DiscreteGpu => "discrete",
        DeviceType::IntegratedGpu => "integrated",
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => "cpu",
        DeviceType::Other => "other",
    }
}

/// Lower is better.
fn rank(info: &wgpu::AdapterInfo) -> u8 {
    match info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// The adapter that `auto` takes, if any.
fn auto(adapters: &[wgpu::Adapter]) -> Option<usize> {
    let fit = adapters.iter().enumerate().filter(|(_, a)| rank(&a.get_info()) < 2);
    fit.min_by_key(|(_, a)| rank(&a.get_info())).map(|(i, _)| i)
}

fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_owned()
}

/// All adapters of this machine.
pub fn list() -> Vec<DeviceInfo> {
    let adapters = adapters();
    let auto = auto(&adapters);
    let describe = |(index, adapter): (usize, &wgpu::Adapter)| {
        let info = adapter.get_info();
        let has = adapter.features();
        let features = [
            ("f16", Features::SHADER_F16),
            ("subgroups", Features::SUBGROUP),
            ("immediates", Features::IMMEDIATES),
            ("coherent_memory", Features::MEMORY_DECORATION_COHERENT),
            ("cooperative_matrix", Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            ("timestamps", Features::TIMESTAMP_QUERY),
            ("timestamps_inside_passes", Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            ("pipeline_cache", Features::PIPELINE_CACHE),
        ];
        DeviceInfo {
            index,
            name: info.name.clone(),
            kind: kind(&info).to_owned(),
            backend: info.backend.to_string(),
            driver: driver(&info),
            memory_bytes: memory_bytes(adapter),
            subgroup_min: info.subgroup_min_size,
            subgroup_max: info.subgroup_max_size,
            features: features.into_iter().map(|(name, f)| (name, has.contains(f))).collect(),
            auto: auto == Some(index),
        }
    };
    adapters.iter().enumerate().map(describe).collect()
}

/// Bytes of the device's largest heap of its own; wgpu does not tell, Vulkan does.
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handles are only asked for their properties while the adapter lives.
    unsafe {
        let adapter = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = adapter.shared_instance().raw_instance();
        let memory = instance.get_physical_device_memory_properties(adapter.raw_physical_device());
        let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
        const DEVICE_LOCAL: u32 = 1;
        heaps.iter().filter(|h| h.flags.as_raw() & DEVICE_LOCAL != 0).map(|h| h.size).max()
    }
}

/// The adapter that is asked for; `None` where `auto` finds no GPU.
///
/// # Errors
/// [`Error::Device`] where none fits.
pub fn choose(choice: &DeviceChoice) -> Result<Option<wgpu::Adapter>> {
    let mut adapters = adapters();
    let names = || {
        let all = list();
        let all: Vec<String> = all.iter().map(|d| format!("{} {}", d.index, d.name)).collect();
        if all.is_empty() { "there are none".to_owned() } else { format!("there are: {}", all.join(", ")) }
    };
    let at = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Auto => match auto(&adapters) {
            Some(at) => at,
            None => return Ok(None),
        },
        DeviceChoice::Gpu => {
            let best = adapters.iter().enumerate().min_by_key(|(_, a)| rank(&a.get_info())).map(|(i, _)| i);
            best.ok_or_else(|| {
                Error::Device(
                    "no adapter found: install a Vulkan driver (on Debian, for software rendering: apt-get \
                     install mesa-vulkan-drivers), or use --device cpu"
                        .to_owned(),
                )
            })?
        }
        DeviceChoice::Index(i) if *i < adapters.len() => *i,
        DeviceChoice::Index(i) => {
            return Err(Error::Device(format!("no device has the number {i} ({})", names())));
        }
        DeviceChoice::Name(part) => {
            let part = part.to_lowercase();
            let found = adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&part));
            found.ok_or_else(|| Error::Device(format!("no device's name contains {part:?} ({})", names())))?
        }
    };
    Ok(Some(adapters.swap_remove(at)))
}

/// A pipeline, and how many bytes of immediates it takes.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// Each binding's number, and whether it is written.
    pub(super) bindings: Vec<(u32, bool)>,
}

/// An opened device.
pub(super) struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) limits: wgpu::Limits,
    pub(super) memory: Option<u64>,
    /// The most bytes of a binding.
    pub(super) binding: u64,
    /// The most bytes of weights in one.
    pub(super) weight_binding: u64,
    /// Shaders run on the host's processor.
    pub(super) software: bool,
    pub(super) form: Form,
    /// Stages of a step may overlap here, if a trial shows that they can; what it has shown.
    may_overlap: bool,
    overlaps: OnceCell<bool>,
    /// What was measured of products here.
    pub(super) table: Table,
    /// The device can say how long a pass takes.
    pub(super) clock: bool,
    checked: bool,
    pipelines: RefCell<HashMap<Shader, Arc<Pipeline>>>,
    /// Ends waiting: see [`Options::stop`].
    stop: Option<Arc<AtomicBool>>,
    /// The first error that no scope caught, or the reason of the device's loss.
    failure: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    pub(super) fn open(adapter: &wgpu::Adapter, options: &Options) -> Result<Gpu> {
        let forms = options.forms;
        let info = adapter.get_info();
        let has = adapter.features();
        if !has.contains(Features::IMMEDIATES) {
            return Err(Error::Device(format!(
                "{}: its driver offers no immediates (push constants)",
                info.name
            )));
        }
        let native_f16 = has.contains(Features::SHADER_F16) && !forms.no_f16;
        let subgroups = has.contains(Features::SUBGROUP) && !forms.no_subgroups;
        let inline_merge = has.contains(Features::MEMORY_DECORATION_COHERENT) && !forms.no_coherent;
        let math = options.math.unwrap_or(Math::Int16);
        let kv = options.kv.unwrap_or(match math {
            Math::F32 => Kv::F32,
            Math::F16 | Math::Int16 | Math::Int8 => Kv::F16,
        });
        let native_f16 = native_f16 && math == Math::F16;
        let mut features = Features::IMMEDIATES;
        features.set(Features::SHADER_F16, native_f16);
        features.set(Features::SUBGROUP, subgroups);
        features.set(Features::MEMORY_DECORATION_COHERENT, inline_merge);
        let clock = has.contains(Features::TIMESTAMP_QUERY);
        features.set(Features::TIMESTAMP_QUERY, clock);
        let descriptor = wgpu::DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: adapter.limits(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Device(format!("{}: cannot be opened: {e}", info.name)))?;
        let failure = Arc::new(Mutex::new(None));
        let note = |failure: &Arc<Mutex<Option<String>>>| {
            let failure = failure.clone();
            move |text: String| {
                if let Ok(mut f) = failure.lock() {
                    f.get_or_insert(text);
                }
            }
        };
        let (uncaptured, lost) = (note(&failure), note(&failure));
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| uncaptured(one_line(&e.to_string()))));
        device.set_device_lost_callback(move |reason, text| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost(format!("the device was lost: {}", one_line(&text)));
            }
        });
        let limits = device.limits();
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        Ok(Gpu {
            binding,
            weight_binding: forms.max_binding.unwrap_or(u64::MAX).min(binding),
            limits,
            device,
            queue,
            driver: driver(&info),
            memory: memory_bytes(adapter),
            software: info.device_type == DeviceType::Cpu,
            name: info.name,
            form: Form {
                math,
                kv,
                subgroups,
                native_f16,
                inline_merge,
                overlapped: false,
                whole_vectors: forms.whole_vectors || info.backend != wgpu::Backend::Vulkan,
                polls: forms.polls.unwrap_or(POLLS),
            },
            // Only integers leave a word that is never written.
            may_overlap: info.backend == wgpu::Backend::Vulkan
                && inline_merge
                && !forms.no_overlap
                && !forms.whole_vectors
                && matches!(math, Math::Int16 | Math::Int8),
            overlaps: OnceCell::new(),
            table: Table::default(),
            checked: forms.checked,
            clock,
            pipelines: RefCell::default(),
            stop: options.stop.clone(),
            failure,
        })
    }

    /// Stages of a step can overlap here: see `overlap.rs`. Tried when it is first asked for.
    pub(super) fn overlaps(&self) -> Result<bool> {
        if !self.may_overlap {
            return Ok(false);
        }
        if let Some(known) = self.overlaps.get() {
            return Ok(*known);
        }
        let works = overlap::works(self)?;
        Ok(*self.overlaps.get_or_init(|| works))
    }

    /// The error that has happened, if one has.
    pub(super) fn check(&self) -> Result<()> {
        match self.failure.lock() {
            Ok(failure) => match &*failure {
                Some(text) => Err(Error::Device(format!("{}: {text}", self.name))),
                None => Ok(()),
            },
            Err(_) => Err(Error::Device(format!("{}: failed", self.name))),
        }
    }

    /// Waits for a submission. Where somebody asks to stop meanwhile it stays under way.
    pub(super) fn wait(&self, index: &wgpu::SubmissionIndex) -> Result<()> {
        let timeout = self.stop.as_ref().map(|_| PATIENCE);
        loop {
            let polled =
                self.device.poll(wgpu::PollType::Wait { submission_index: Some(index.clone()), timeout });
            self.check()?;
            match polled {
                Err(wgpu::PollError::Timeout) if !self.is_stopped() => {}
                Err(wgpu::PollError::Timeout) => return Err(Error::Interrupted),
                polled => return polled.map(|_| ()).map_err(|e| self.failed(&e)),
            }
        }
    }

    /// Waits for everything, whoever asks to stop.
    pub(super) fn wait_for_all(&self) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map(|_| ()).map_err(|e| self.failed(&e))
    }

    /// Ends what is being done where somebody asks for it.
    pub(super) fn check_stop(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Relaxed))
    }

    fn failed(&self, e: &wgpu::PollError) -> Error {
        Error::Device(format!("{}: {e}", self.name))
    }

    /// A buffer; `what` names it should memory not suffice.
    pub(super) fn buffer(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        let no_room = |why: &str| {
            Err(Error::Device(format!(
                "{}: no room for {} of {what}{why}: try a smaller --ctx or a smaller quantisation",
                self.name,
                super::memory::shown(bytes)
            )))
        };
        if size > self.limits.max_buffer_size {
            return no_room(" in one buffer");
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: false,
        });
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(memory.pop())];
        self.check()?;
        if errors.iter().flatten().next().is_some() { no_room("") } else { Ok(buffer) }
    }

    /// A shader's pipeline; each text is compiled once.
    pub(super) fn pipeline(&self, shader: &Shader) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = self.pipelines.borrow().get(shader) {
            return Ok(pipeline.clone());
        }
        let made = compile(&self.device, self.checked, shader);
        self.keep(shader, made)
    }

    /// Frees what is no longer held, and forgets all pipelines.
    pub(super) fn clear(&self) -> Result<()> {
        self.pipelines.borrow_mut().clear();
        self.wait_for_all()
    }

    /// Compiles what [`Gpu::pipeline`] will be asked for, on all processors.
    pub(super) fn compile_ahead(&self, shaders: &[Shader]) -> Result<()> {
        let known = |shader: &&Shader| self.pipelines.borrow().contains_key(*shader);
        let new: HashSet<&Shader> = shaders.iter().filter(|s| !known(s)).collect();
        let new: Vec<&Shader> = new.into_iter().collect();
        let (device, checked) = (&self.device, self.checked);
        if new.is_empty() {
            return Ok(());
        }
        let pool = threads::pool(threads::cores().min(new.len()))?;
        let made: Vec<_> =
            pool.install(|| new.par_iter().map(|shader| compile(device, checked, shader)).collect());
        new.into_iter().zip(made).try_for_each(|(shader, made)| self.keep(shader, made).map(|_| ()))
    }

    /// Remembers a pipeline, or says why there is none.
    fn keep(&self, shader: &Shader, made: Result<Pipeline, String>) -> Result<Arc<Pipeline>> {
        self.check()?;
        let made = made.map_err(|text| {
            Error::Device(format!("{}: kernel {} does not compile: {text}", self.name, shader.name))
        })?;
        let made = Arc::new(made);
        self.pipelines.borrow_mut().insert(shader.clone(), made.clone());
        Ok(made)
    }

    /// Binds ranges of buffers to a pipeline, in the order of its bindings.
    pub(super) fn bind(&self, pipeline: &Pipeline, ranges: &[Range<'_>]) -> wgpu::BindGroup {
        debug_assert_eq!(pipeline.bindings.len(), ranges.len());
        let entries: Vec<_> = pipeline
            .bindings
            .iter()
            .zip(ranges)
            .map(|((binding, _), range)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: range.buffer,
                    offset: range.offset,
                    size: range.bytes.and_then(std::num::NonZeroU64::new),
                }),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}

/// A shader's pipeline, or why it does not compile. Error scopes belong to a thread: this may run
/// on several at once.
fn compile(device: &wgpu::Device, checked: bool, shader: &Shader) -> Result<Pipeline, String> {
    let checks = match checked {
        true => wgpu::ShaderRuntimeChecks::checked(),
        false => wgpu::ShaderRuntimeChecks::unchecked(),
    };
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(shader.name),
        source: wgpu::ShaderSource::Wgsl(shader.source.as_str().into()),
    };
    // SAFETY: the kernels index within the sizes that they are made for, which the engine's
    // buffers have; the tests run every form with checks too (INFER_CHECKED=1).
    let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
    let entries: Vec<_> = shader
        .bindings
        .iter()
        .map(|(binding, written)| wgpu::BindGroupLayoutEntry {
            binding: *binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !written },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(shader.name),
        entries: &entries,
    });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(shader.name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: shader.immediates,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(shader.name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: checked,
            ..Default::default()
        },
        cache: None,
    });
    let errors = [pollster::block_on(internal.pop()), pollster::block_on(scope.pop())];
    if let Some(error) = errors.into_iter().flatten().next() {
        return Err(one_line(&error.to_string()));
    }
    Ok(Pipeline { pipeline, layout, bindings: shader.bindings.clone() })
}

/// Every device allows bindings at multiples of this.
pub(super) const ALIGN: u64 = 256;

/// A range of a buffer; the whole of it without `bytes`.
#[derive(Clone, Copy)]
pub(super) struct Range<'a> {
    pub(super) buffer: &'a wgpu::Buffer,
    pub(super) offset: u64,
    pub(super) bytes: Option<u64>,
}

impl<'a> From<&'a wgpu::Buffer> for Range<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Range<'a> {
        Range { buffer, offset: 0, bytes: None }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
