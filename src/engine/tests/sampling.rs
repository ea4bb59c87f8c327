//! Selection and sampling.

use super::*;
use crate::kernels::sample::{self, Sampling};
use crate::kernels::select::{self, Select};
use crate::quant::TILE;

#[test]
fn selection_and_sampling() {
    let plain = Forms { no_subgroups: true, ..Forms::default() };
    for gpu in [gpu(Math::F32, Forms::default()), gpu(Math::F32, plain)] {
        for vocab in [3usize, 1000, 4099] {
            let mut random = Random(vocab as u64);
            let logits: Vec<f32> = (0..vocab).map(|_| 8.0 * random.next()).collect();
            let history: Vec<u32> = (0..70).map(|i| (i * 7 % vocab) as u32).collect();
            let choose = |logits: &[f32], sampling: &Sampling, step: u32| -> u32 {
                let best: Vec<[u32; 2]> = logits
                    .chunks(TILE)
                    .enumerate()
                    .map(|(tile, logits)| match select::twin(logits) {
                        select::FAILED => [f32::NAN.to_bits(), 0],
                        at => [logits[at as usize].to_bits(), (tile * TILE) as u32 + at],
                    })
                    .collect();
                let mut ids = history.clone();
                ids.push(12345);
                let (logits, best, ids) = (upload(&gpu, logits), upload(&gpu, &best), upload(&gpu, &ids));
                let position = history.len() as u32;
                if sampling.is_argmax() {
                    let kernel = Select { vocab, threads: 256 };
                    run(
                        &gpu,
                        &kernel.shader(gpu.form),
                        &[&best, &ids],
                        bytemuck::bytes_of(&position),
                        [1, 1, 1],
                    );
                } else {
                    let args = sampling.args(position, step);
                    let shader = sample::shader(vocab, gpu.form);
                    run(&gpu, &shader, &[&logits, &best, &ids], bytemuck::bytes_of(&args), [1, 1, 1]);
                }
                download::<u32>(&gpu, &ids)[history.len()]
            };
            let d = Sampling { seed: 0x1234_5678_9abc_def0, ..Sampling::default() };
            let ways = [
                Sampling::greedy(),
                d,
                Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..d },
                Sampling { top_k: 0, top_p: 0.5, min_p: 0.0, temperature: 2.0, ..d },
                Sampling { top_k: 0, top_p: 1.0, min_p: 0.3, temperature: 3.0, ..d },
                Sampling { top_k: 5, top_p: 0.9, min_p: 0.0, temperature: 5.0, repeat_penalty: 1.3, ..d },
                Sampling { top_k: 900, top_p: 0.99, min_p: 0.0, temperature: 1.5, repeat_penalty: 0.7, ..d },
                Sampling { repeat_penalty: 2.0, ..Sampling::greedy() },
                Sampling { top_p: 0.0, ..d },
            ];
            for sampling in ways {
                for step in 0..8 {
                    let want = sample::twin(&mut logits.clone(), &history, &sampling, step);
                    assert_eq!(choose(&logits, &sampling, step), want, "{vocab} {sampling:?} step {step}");
                }
                // A draw whose noise was infinite once, with one candidate left.
                let mut peak = vec![-20.0; vocab];
                peak[0] = 20.0;
                let once = Sampling { seed: 8_650_586, ..sampling };
                assert_eq!(choose(&peak, &once, 0), sample::twin(&mut peak.clone(), &history, &once, 0));
                // Equal logits: ties stay, the lowest wins where the best is taken.
                let flat = vec![1.0; vocab];
                let want = sample::twin(&mut flat.clone(), &history, &sampling, 0);
                assert_eq!(choose(&flat, &sampling, 0), want, "{vocab} {sampling:?} flat");
                let mut bad = logits.clone();
                bad[vocab / 2] = f32::NAN;
                assert_eq!(choose(&bad, &sampling, 0), select::FAILED, "{vocab} {sampling:?} NaN");
            }
        }
    }
}
