//! What `maskmill train` says of steps and validations, in words and as JSON.

use std::time::Duration;

use indicatif::HumanDuration;
use maskmill_train::grounder::{GrounderReport, GrounderStep};
use maskmill_train::metrics::{Row, StepRow};
use maskmill_train::{Report, StepReport};
use serde_json::{Value, json};

/// A row of the metrics.
pub(crate) trait StepWords: StepRow {
    /// The row as an object.
    fn json(&self) -> Value;
    /// The weighted sum, and images a second.
    fn loss_and_speed(&self) -> [f64; 2];

    /// `loss 1.234, 3.21 images/s, 4 hours left`
    fn words(&self, left: Option<Duration>) -> String {
        let left = left.map_or(String::new(), |left| {
            let left = Duration::from_secs(left.as_secs());
            format!(", {} left", HumanDuration(left))
        });
        let [loss, images_per_second] = self.loss_and_speed();
        format!("loss {loss:.3}, {images_per_second:.2} images/s{left}")
    }
}

/// A validation.
pub(crate) trait ValidationWords: Row {
    /// The report as an object.
    fn json(&self) -> Value;
    /// In a line.
    fn words(&self) -> String;
}

impl StepWords for StepReport {
    fn json(&self) -> Value {
        json!({"step": self.step, "images": self.images, "seconds": self.seconds,
            "learning_rate": self.learning_rate, "loss": self.loss, "focal": self.focal,
            "dice": self.dice, "iou": self.iou, "gradient_norm": self.gradient_norm,
            "images_per_second": self.images_per_second, "skipped": self.skipped})
    }

    fn loss_and_speed(&self) -> [f64; 2] {
        [self.loss, self.images_per_second]
    }
}

impl StepWords for GrounderStep {
    fn json(&self) -> Value {
        json!({"step": self.step, "images": self.images, "seconds": self.seconds,
            "learning_rate": self.learning_rate, "loss": self.loss, "class": self.class,
            "l1": self.l1, "giou": self.giou, "objectness": self.objectness,
            "gradient_norm": self.gradient_norm, "images_per_second": self.images_per_second,
            "skipped": self.skipped})
    }

    fn loss_and_speed(&self) -> [f64; 2] {
        [self.loss, self.images_per_second]
    }
}

impl ValidationWords for Report {
    fn json(&self) -> Value {
        json!({"images": self.images, "masks": self.masks,
            "miou_1_click_best": self.miou_1_click_best, "miou_1_click": self.miou_1_click,
            "miou_3_clicks": self.miou_3_clicks, "miou_5_clicks": self.miou_5_clicks,
            "miou_box": self.miou_box, "iou_correlation": self.iou_correlation})
    }

    /// `mIoU 0.612 at 1 click (best mask), 0.655 at 3, 0.689 at 5, 0.743 of boxes`
    fn words(&self) -> String {
        format!(
            "mIoU {:.3} at 1 click (best mask), {:.3} at 3, {:.3} at 5, {:.3} of boxes",
            self.miou_1_click_best, self.miou_3_clicks, self.miou_5_clicks, self.miou_box
        )
    }
}

impl ValidationWords for GrounderReport {
    fn json(&self) -> Value {
        json!({"images": self.images, "objects": self.objects, "phrases": self.phrases,
            "held_out_phrases": self.held_out_phrases, "ap50_held_out": self.ap50_held_out,
            "ap50_others": self.ap50_others})
    }

    /// `AP50 0.512 of phrases that are held out, 0.601 of others`
    fn words(&self) -> String {
        format!(
            "AP50 {:.3} of phrases that are held out, {:.3} of others",
            self.ap50_held_out, self.ap50_others
        )
    }
}
