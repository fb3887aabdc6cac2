//! `maskmill eval`: how well a checkpoint answers clicks and boxes, and what it finds by itself.

use maskmill_sam::{AutomaticOptions, DeviceName, MaskFilters};
use maskmill_train::{COUNTED_PART, Data, Evaluation, FOUND_IOU, Report, evaluate};

use crate::args::EvalArguments;
use crate::failure::Failure;
use crate::job_files::{read_training, start_logging};

pub(crate) fn eval(arguments: &EvalArguments) -> Result<(), Failure> {
    let job = read_training(&arguments.pipeline, &arguments.place)?;
    start_logging(&job.config.log)?;
    let Some(settings) = &job.pipeline.validation else {
        let error = anyhow::anyhow!(
            "{} has no [[validation.data]]: there is nothing to measure on",
            arguments.pipeline.display()
        );
        return Err(error.into());
    };
    let device = job.config.run.device.parse::<DeviceName>()?.open()?;
    let points_per_batch = job.config.run.points_per_batch as usize;
    let evaluation = Evaluation {
        images: settings.images as usize,
        masks_per_image: settings.masks_per_image as usize,
        automatic: arguments
            .automatic
            .then(|| (automatic(arguments), points_per_batch)),
    };
    let data = Data::open(&settings.data, "validation.data")?;
    let mut skipped = |problem: String| tracing::warn!("an example was passed over: {problem}");
    let report = evaluate(
        &arguments.checkpoint,
        &device,
        &data,
        &evaluation,
        &mut skipped,
    )?;
    match arguments.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print(&report),
    }
    Ok(())
}

fn automatic(arguments: &EvalArguments) -> AutomaticOptions {
    AutomaticOptions {
        point_grids: AutomaticOptions::regular_grids(arguments.points_per_side, 0, 1),
        filters: MaskFilters {
            pred_iou_thresh: arguments.pred_iou_thresh,
            stability_score_thresh: arguments.stability_score_thresh,
            box_nms_thresh: arguments.box_nms_thresh,
            ..MaskFilters::default()
        },
        ..AutomaticOptions::default()
    }
}

fn print(report: &Report) {
    println!(
        "{} masks of {} images; {} examples could not be used",
        report.masks, report.images, report.skipped
    );
    println!(
        "mIoU, 1 click, best mask          {:.3}",
        report.miou_1_click_best
    );
    println!(
        "mIoU, 1 click                     {:.3}",
        report.miou_1_click
    );
    println!(
        "mIoU, 3 clicks                    {:.3}",
        report.miou_3_clicks
    );
    println!(
        "mIoU, 5 clicks                    {:.3}",
        report.miou_5_clicks
    );
    println!("mIoU, box                         {:.3}", report.miou_box);
    println!(
        "predicted and true IoU, Pearson   {:.3}",
        report.iou_correlation
    );
    for (i, class) in report.by_area.iter().enumerate() {
        let up_to = report.by_area.get(i + 1).map_or(1.0, |next| next.from);
        println!(
            "{:>5.2} % to {:>6.2} % of the image: {:>5} masks, 1 click best {:.3}, box {:.3}",
            100.0 * class.from,
            100.0 * up_to,
            class.masks,
            class.miou_1_click_best,
            class.miou_box
        );
    }
    if let Some(found) = &report.automatic {
        println!(
            "Automatic masks find {} of {} objects that cover more than {:.0} % of their image, at an IoU of {FOUND_IOU}: \
             {:.1} %",
            found.found,
            found.objects,
            100.0 * COUNTED_PART,
            100.0 * found.recall()
        );
        println!(
            "{} masks, {} of them duplicates: {:.3} a mask",
            found.masks,
            found.duplicates,
            found.duplicates_per_mask()
        );
    }
}
