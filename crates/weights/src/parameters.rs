//! The values of a module's parameters.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::from_device::all_to_host;

/// Every parameter's values, row-major as the module lays them out: one read from the device.
pub fn parameter_values(module: &impl Module) -> BTreeMap<ParamId, Vec<f32>> {
    let mut flat = Flat::default();
    module.visit(&mut flat);
    let (ids, tensors): (Vec<_>, Vec<_>) = flat.parameters.into_iter().unzip();
    ids.into_iter().zip(all_to_host(tensors)).collect()
}

/// The parameters, each as one row of values.
#[derive(Default)]
struct Flat {
    parameters: Vec<(ParamId, Tensor<1>)>,
}

impl ModuleVisitor for Flat {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().without_autodiff();
        let count = value.shape().num_elements();
        self.parameters.push((param.id, value.reshape([count])));
    }
}
