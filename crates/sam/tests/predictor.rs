//! The predictor as a caller meets it: prompts of every form in one call, and what it refuses.

mod support;

use maskmill_sam::{MaskOutput, PointPrompt, Predictor, Prompt, PromptError};

use support::{photo, root};

fn point(x: f64, y: f64) -> PointPrompt {
    PointPrompt {
        xy_px: [x, y],
        foreground: true,
    }
}

#[test]
fn prompts_of_several_forms_in_one_call_are_as_one_by_one() {
    let sam = support::load(&root().join("models/sam-seeded-tiny.safetensors"));
    let mut predictor = Predictor::new(&sam);
    predictor.set_image(&photo(&root().join("samples/cat.png")));
    let earlier = Prompt {
        points: vec![point(200.0, 150.0)],
        ..Prompt::default()
    };
    let earlier = predictor.predict(&[earlier], MaskOutput::Single).unwrap();
    let prompts = [
        Prompt {
            points: vec![point(100.0, 60.0)],
            ..Prompt::default()
        },
        Prompt {
            box_xyxy_px: Some([50.0, 40.0, 300.0, 250.0]),
            ..Prompt::default()
        },
        Prompt {
            points: vec![point(30.0, 200.0)],
            ..Prompt::default()
        },
        Prompt {
            points: vec![point(30.0, 200.0), point(31.0, 190.0)],
            mask_logits: Some(earlier[0][0].low_res_logits.clone()),
            ..Prompt::default()
        },
    ];
    let together = predictor.predict(&prompts, MaskOutput::Multi).unwrap();
    for (prompt, together) in prompts.iter().zip(&together) {
        assert_eq!(together.len(), 3);
        let alone = predictor
            .predict(std::slice::from_ref(prompt), MaskOutput::Multi)
            .unwrap();
        assert_eq!(&alone[0], together, "{prompt:?}");
    }
    assert_ne!(together[0], together[2], "other points, other masks");
    assert_eq!(predictor.predict(&[], MaskOutput::Multi).unwrap(), [[]; 0]);
}

#[test]
fn a_prompt_at_fault_is_named() {
    let sam = support::load(&root().join("models/sam-seeded-tiny.safetensors"));
    let mut predictor = Predictor::new(&sam);
    let good = Prompt {
        points: vec![point(1.0, 1.0)],
        ..Prompt::default()
    };
    let refused = |predictor: &Predictor<'_>, prompt: Prompt| {
        predictor
            .predict(&[good.clone(), prompt], MaskOutput::Multi)
            .unwrap_err()
    };
    assert_eq!(
        refused(&predictor, good.clone()),
        PromptError::NoImage,
        "before set_image"
    );
    predictor.set_image(&photo(&root().join("samples/cat.png")));
    assert_eq!(
        refused(&predictor, Prompt::default()),
        PromptError::Empty { index: 1 }
    );
    let infinite = Prompt {
        box_xyxy_px: Some([0.0, 0.0, f64::INFINITY, 5.0]),
        ..Prompt::default()
    };
    assert!(matches!(
        refused(&predictor, infinite),
        PromptError::NotFinite { index: 1, .. }
    ));
    let short = Prompt {
        mask_logits: Some(vec![0.0; 10]),
        ..Prompt::default()
    };
    assert_eq!(
        refused(&predictor, short),
        PromptError::MaskSize {
            index: 1,
            found: 10,
            side: 64
        }
    );
}
