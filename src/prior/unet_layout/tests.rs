//! Sizes of the published networks, and hyperparameters that make no network.

use super::*;

#[test]
fn the_published_network_has_its_published_size() {
    let layout = Layout::new(&UnetConfig::published(), 3).unwrap();
    assert_eq!(layout.parameters(), 369_547_779);
    // 1.495 TFLOP a forward; the published figure leaves out what is below its last digit.
    assert!((layout.flops() / 1.495e12 - 1.0).abs() < 0.002, "{:.4e}", layout.flops());
}

/// The unconditional ImageNet network of guided-diffusion at 256 px: 552,814,086 parameters, with heads of 64 channels and residual blocks that change the resolution.
#[test]
fn the_guided_diffusion_network_has_its_published_size() {
    let config = UnetConfig {
        num_channels: 256,
        num_res_blocks: 2,
        num_head_channels: 64,
        attention_resolutions: "32,16,8".into(),
        learn_sigma: true,
        resblock_updown: true,
        noise_schedule: "linear".into(),
        ..UnetConfig::published()
    };
    let layout = Layout::new(&config, 3).unwrap();
    assert_eq!(layout.parameters(), 552_814_086);
    let heads = layout.layers().filter_map(|placed| match placed.layer {
        Layer::Attention { channels, heads } => Some((channels, heads)),
        _ => None,
    });
    assert!(heads.into_iter().all(|(channels, heads)| channels == 64 * heads));
    let coarse = layout.encoder.iter().flatten().filter(|placed| placed.name == "input_blocks.3.0");
    assert_eq!(coarse.map(|placed| placed.size).collect::<Vec<_>>(), [256]);
}

#[test]
fn bad_hyperparameters_are_named() {
    type Change = fn(&mut UnetConfig);
    let cases: [(&str, Change); 12] = [
        ("image_size", |config| config.image_size = 100),
        ("channel_mult", |config| config.channel_mult = "1,two".into()),
        ("image_size 256", |config| config.channel_mult = "1,1,1,1,1,1,1,1,1,1".into()),
        ("num_head_channels", |config| config.num_head_channels = 100),
        ("num_heads_upsample", |config| config.num_heads_upsample = 7),
        ("class_cond", |config| config.class_cond = true),
        ("predict_xstart", |config| config.predict_xstart = true),
        ("num_channels", |config| config.num_channels = 100),
        ("num_channels", |config| config.num_channels = i64::MAX),
        ("num_res_blocks", |config| config.num_res_blocks = 0),
        ("num_heads", |config| config.num_heads = 0),
        ("attention_resolutions", |config| config.attention_resolutions = "16,x".into()),
    ];
    for (name, change) in cases {
        let mut config = UnetConfig::published();
        change(&mut config);
        let error = Layout::new(&config, 3).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
