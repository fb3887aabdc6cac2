//! `maskmill eval`: how well a checkpoint answers clicks and boxes, and what it finds by itself; or how well a grounder finds
//! what phrases name.

use maskmill_job::{AnyTrainingJob, GrounderPipeline, TrainingJob};
use maskmill_sam::{AutomaticOptions, DeviceName, MaskFilters};
use maskmill_train::grounder::{self, GrounderReport, SceneData};
use maskmill_train::{COUNTED_PART, Data, Evaluation, FOUND_IOU, Report, evaluate};

use crate::args::EvalArguments;
use crate::failure::Failure;
use crate::job_files::{read_training, start_logging};

pub(crate) fn eval(arguments: &EvalArguments) -> Result<(), Failure> {
    match read_training(&arguments.pipeline, &arguments.place)? {
        AnyTrainingJob::Segmenter(job) => eval_segmenter(arguments, &job),
        AnyTrainingJob::Grounder(job) => eval_grounder(arguments, &job),
    }
}

fn nothing_to_measure_on(arguments: &EvalArguments) -> anyhow::Error {
    anyhow::anyhow!(
        "{} has no [[validation.data]]: there is nothing to measure on",
        arguments.pipeline.display()
    )
}

fn passed_over(problem: String) {
    tracing::warn!("an example was passed over: {problem}");
}

fn eval_grounder(
    arguments: &EvalArguments,
    job: &TrainingJob<GrounderPipeline>,
) -> Result<(), Failure> {
    start_logging(&job.config.log)?;
    if arguments.automatic {
        let error = anyhow::anyhow!(
            "--automatic is for models of Segment Anything; {} trains a grounder. Remove it",
            arguments.pipeline.display()
        );
        return Err(error.into());
    }
    let Some(settings) = &job.pipeline.validation else {
        return Err(nothing_to_measure_on(arguments).into());
    };
    let device = job.config.run.device.parse::<DeviceName>()?.open()?;
    let data = SceneData::open(&settings.data, "validation.data")?;
    let report = grounder::evaluate(
        &arguments.checkpoint,
        &device,
        &data,
        settings.images as usize,
        job.pipeline.queries.held_out,
        &mut passed_over,
    )?;
    match arguments.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print_grounder(&report),
    }
    Ok(())
}

fn print_grounder(report: &GrounderReport) {
    println!(
        "{} phrases of {} objects on {} images, each asked of all images; {} scenes had no object to find",
        report.phrases, report.objects, report.images, report.skipped
    );
    println!(
        "AP50, {:>4} phrases with a pair of colour and shape that was held out  {:.3}",
        report.held_out_phrases, report.ap50_held_out
    );
    println!(
        "AP50, {:>4} other phrases                                              {:.3}",
        report.phrases - report.held_out_phrases,
        report.ap50_others
    );
    println!("By what phrases say: held out, others");
    for form in &report.by_form {
        println!(
            "{:<30} {:>4} phrases {:.3}, {:>4} phrases {:.3}",
            form.form,
            form.held_out_phrases,
            form.ap50_held_out,
            form.other_phrases,
            form.ap50_others
        );
    }
}

fn eval_segmenter(arguments: &EvalArguments, job: &TrainingJob) -> Result<(), Failure> {
    start_logging(&job.config.log)?;
    let Some(settings) = &job.pipeline.validation else {
        return Err(nothing_to_measure_on(arguments).into());
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
    let report = evaluate(
        &arguments.checkpoint,
        &device,
        &data,
        &evaluation,
        &mut passed_over,
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
