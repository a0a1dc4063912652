// The shared precompiled header: ATen and no more (torch/torch.h would make every file slower than
// no header at all).
#pragma once
#include <ATen/ATen.h>
