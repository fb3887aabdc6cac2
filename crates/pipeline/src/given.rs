//! A prompt of an image, with what its mask's row says of it.

use maskmill_sam::Prompt;

/// A prompt, and what the object is called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Given {
    pub prompt: Prompt,
    pub label: Option<String>,
    pub score: Option<f32>,
}

impl Given {
    /// A box, `[x0, y0, x1, y1]` in pixels of the image.
    pub(crate) fn of_box(box_xyxy_px: [f64; 4], label: Option<String>, score: Option<f32>) -> Self {
        Self {
            prompt: Prompt {
                box_xyxy_px: Some(box_xyxy_px),
                ..Prompt::default()
            },
            label,
            score,
        }
    }

    /// The box as rows have it.
    pub(crate) fn prompt_box(&self) -> Option<[f32; 4]> {
        let corners = self.prompt.box_xyxy_px?;
        Some(corners.map(|corner| corner as f32))
    }

    /// The points as rows have them.
    pub(crate) fn point_coords(&self) -> Vec<[f64; 2]> {
        self.prompt.points.iter().map(|point| point.xy_px).collect()
    }
}

/// Ranks prompts among each other: those without a score come last.
pub(crate) fn scores(given: &[Given]) -> Vec<f32> {
    given.iter().map(|one| one.score.unwrap_or(0.0)).collect()
}
