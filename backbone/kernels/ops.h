// ops.h — the differentiable operators of the project, one folder each with its reference; this
// header gathers them. T rows (all samples), D width, H query heads, K key/value heads, N head
// width, V vocabulary. Every op: f32, bf16, f64 (gradient checks); sums in fp32 (f64 for f64). None
// supports double backward.
#pragma once
#include "backbone/kernels/attention/attention.h"
#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "backbone/kernels/embedding/embedding.h"
#include "backbone/kernels/gelu/gelu.h"
#include "backbone/kernels/layer_norm/layer_norm.h"
#include "backbone/kernels/linear/linear.h"
#include "backbone/kernels/rms_norm/rms_norm.h"
#include "backbone/kernels/rope/mrope.h"
#include "backbone/kernels/rope/rope.h"
#include "backbone/kernels/splice_rows/splice_rows.h"
#include "backbone/kernels/swiglu/swiglu.h"
