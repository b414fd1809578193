// The catalogue: every kernel, its contract and where it is declared. Bindings include this and nothing else of ours.
//
// Arrays are (z, y, x) / (y, x) / (x), contiguous, float or double, never rescaled. No kernel allocates its output.
//
//   SpectralPlan<T>::transfer         psf -> OTF. spectral_plan.hpp
//   SpectralPlan<T>::wiener_transfer  OTFs of psf and regularizer -> Wiener filter. spectral_plan.hpp
//   SpectralPlan<T>::gcv              sums of generalised cross-validation for a list of balances. spectral_plan.hpp
//   SpectralPlan<T>::load             array -> spectrum in flight; overwrites the spectrum. spectral_plan.hpp
//   SpectralPlan<T>::sweep            spectrum -> H or Hᵀ -> formula -> out (overwritten, may alias the estimate) and,
//                                     when kept, -> spectrum. spectral_plan.hpp; layout and passes: spectral.hpp
//   CosinePlan<T>::transfer           psf that is symmetric along every axis -> H in cosine transforms. cosine_plan.hpp
//   CosinePlan<T>::load, sweep        as SpectralPlan's, for an image that goes on as its mirror image, without padding.
//                                     cosine_plan.hpp; layout and passes: cosine.hpp
//   SeparablePlan<T>::sweep           the same for a psf that is a product of one filter per axis. separable_plan.hpp
//   DirectPlan<T>::sweep              the same for a small psf of any shape, as a sum over its taps. direct_plan.hpp
//   OverlapPlan<T>::sweep             the same for a line, in overlapping segments that fit the cache. overlap_plan.hpp
//   ConvPlan<T>::forward              convolution of networks, (batch, channel, z, y, x): out overwritten. conv_plan.hpp
//   ConvPlan<T>::input_grad           its transpose in the input, which transposed convolution is. conv_plan.hpp
//   ConvPlan<T>::weight_grad          its gradient in the weight. conv_plan.hpp; bands and tiles of all three: conv.hpp
//   sum_channels                      the gradient in the bias. conv_plan.hpp
//   pad, fold                         boundary padding and its exact transpose; out is overwritten and aliases nothing.
//                                     elementwise.hpp
//   apply_formula                     a sweep's formula on whole arrays; out may alias any operand. elementwise.hpp
//   penalty                           a regularizer's factor for each voxel, in one pass; x and out must not overlap. penalty.hpp
//   denoise_step, denoised            total-variation denoising by its dual problem, in place, and its result; out must not overlap.
//                                     denoise.hpp
//   Formula                           copy, ratio, multiply, residual, add: shared/formulas.hpp
//   parallel_for                      the thread pool: threads.hpp
//   acquire, release_cached           reused memory: memory.hpp
#pragma once
#include "conv_plan.hpp"
#include "cosine_plan.hpp"
#include "denoise.hpp"
#include "direct_plan.hpp"
#include "elementwise.hpp"
#include "isa.hpp"
#include "overlap_plan.hpp"
#include "penalty.hpp"
#include "separable_plan.hpp"
#include "spectral_plan.hpp"
