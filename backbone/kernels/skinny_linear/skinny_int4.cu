// skinny_int4.cu — skinny_linear() of int4 weights; see skinny_linear_kernel.h.
#include "backbone/kernels/skinny_linear/skinny_kernel.h"

namespace euromodal {

cudaError_t skinny_linear_int4(const SkinnyLinearArgs& a, cudaStream_t stream) {
  using skinny::launch_shaped;
  if (a.group == 32)
    return a.zero == nullptr ? launch_shaped<WidenInt4<32, false>>(a, stream)
                             : launch_shaped<WidenInt4<32, true>>(a, stream);
  return a.zero == nullptr ? launch_shaped<WidenInt4<128, false>>(a, stream)
                           : launch_shaped<WidenInt4<128, true>>(a, stream);
}

}  // namespace euromodal
