#include "network.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace geluless {

namespace {

// Windows that pass through a block together: about 200 rows, which fill the tiles of every layer and stay in a
// second-level cache of a megabyte with their widest tensor.
constexpr int kRowsAtOnce = 200;

int windows_at_once(int tokens) { return std::max(1, kRowsAtOnce / tokens); }

template <class Call>
const void* address(void (*kernel)(const Call&)) {
  return reinterpret_cast<const void*>(kernel);
}

size_t stride_of(int channels) { return static_cast<size_t>(round_up(channels, kAlignment)); }

// Gives rows to a tap, 8-bit ones without their storage offset; padding tokens are left out.
void give(const Tap& tap, const std::string& name, Type type, const void* data, size_t stride, int columns, int count,
          const int32_t* tokens, int token_count) {
  std::vector<int32_t> row(static_cast<size_t>(columns));
  const int offset = type == Type::kS8 ? kSignedOffset : 0;
  for (int r = 0; r < count; ++r) {
    if (tokens[r] >= token_count) continue;
    for (int c = 0; c < columns; ++c) {
      const size_t at = static_cast<size_t>(r) * stride + static_cast<size_t>(c);
      const int value = type == Type::kS16 ? static_cast<const int16_t*>(data)[at] : static_cast<const uint8_t*>(data)[at];
      row[static_cast<size_t>(c)] = value - offset;
    }
    tap(name, tokens[r], row.data(), columns);
  }
}

}  // namespace

Network::Network(const NetworkSpec& spec, const Kernels& kernels, int threads, bool blocked)
    : kernels_(kernels), blocked_(blocked), model_(spec, kernels, threads), buffers_(static_cast<size_t>(threads)) {
  for (Buffers& b : buffers_) b.arena.lay_out([&] { lay_out(b); });
}

Network::Workers::Workers(const Model& model, int threads) : pool(threads, spins_for(threads)), all(threads, spins_for(threads)) {
  for (const Stage& stage : model.stages) {
    teams.emplace_back();
    for (int team = 0; team < stage.teams; ++team) teams.back().emplace_back(threads / stage.teams, spins_for(threads));
  }
}

Network::Workers& Network::workers() {
  return workers_.get([&] { return std::make_unique<Workers>(model_, static_cast<int>(buffers_.size())); });
}

size_t Network::bytes() const {
  size_t sum = model_.arena.size();
  for (const Buffers& b : buffers_) sum += b.arena.size();
  return sum;
}

// The largest each buffer must ever be, over all stages.
void Network::lay_out(Buffers& b) const {
  size_t stream = 0, normed = 0, qkv = 0, context = 0, hidden = 0, stored = 0, attention = 0, s16 = 0;
  auto grow = [](size_t& size, size_t rows, size_t stride) { size = std::max(size, rows * stride); };
  const int patches = model_.width / model_.patch[1];  // of one row
  grow(normed, static_cast<size_t>(patches), stride_of(model_.patch_layer.inputs));
  grow(s16, static_cast<size_t>(patches), stride_of(model_.patch_layer.outputs));
  for (const Stage& stage : model_.stages) {
    const StreamRows rows{stage.tokens};
    grow(stream, static_cast<size_t>(rows.count(static_cast<int>(buffers_.size()))), stride_of(stage.channels));
    if (stage.merge) grow(normed, kRowsAtOnce, stride_of(stage.merge->norm.channels()));
    for (const Block& block : stage.blocks) {
      const int tokens = block.windows->tokens;
      const auto together = static_cast<size_t>(windows_at_once(tokens) * tokens);
      const auto all = static_cast<size_t>(block.windows->count) * static_cast<size_t>(tokens);
      const size_t mlp = whole_layer(block) ? all : together;
      grow(normed, mlp, stride_of(stage.channels));
      grow(qkv, together, stride_of(block.qkv.outputs));
      grow(context, together, stride_of(block.proj.inputs));
      grow(hidden, mlp, stride_of(block.fc1.outputs));
      if (block.elementwise) grow(stored, mlp, 2 * stride_of(block.fc1.outputs));
      attention = std::max(attention, kernels_.attention_scratch(tokens, block.head_dim));
    }
  }
  const int last = model_.stages.back().channels;
  grow(s16, kRowsAtOnce, stride_of(last));
  for (int16_t*& s : b.stream) s = b.arena.take<int16_t>(stream);
  b.normed = b.arena.take<uint8_t>(normed);
  b.qkv = b.arena.take<uint8_t>(qkv);
  b.context = b.arena.take<uint8_t>(context);
  b.hidden = b.arena.take<uint8_t>(hidden);
  b.stored = b.arena.take<uint8_t>(stored);
  b.attention = b.arena.take<uint8_t>(attention);
  b.pixels = b.arena.take<uint8_t>(static_cast<size_t>(round_up(model_.width, kAlignment)));
  b.s16 = b.arena.take<int16_t>(s16);
  b.sums = b.arena.take<int32_t>(stride_of(last));
  b.pooled = b.arena.take<int16_t>(model_.head.stride);
}

// ------------------------------------------------------------------------------------------------------- who does what

int Network::run(const float* images, int batch, float* logits) {
  Workers& w = workers();
  const std::lock_guard lock(w.mutex);
  const int threads = w.pool.threads();
  const size_t pixels = static_cast<size_t>(model_.channels) * model_.height * model_.width;
  const int alone = batch / threads * threads;  // a thread per image; what is left over is done together
  std::atomic<int> bad{batch};
  w.pool.run([&](int thread) {
    auto image = [&](int i, Buffers& shared, const Crew& crew) {
      if (forward(images + static_cast<size_t>(i) * pixels, logits + static_cast<size_t>(i) * model_.head.classes, shared, crew,
                  nullptr))
        return;
      int first = bad.load();
      while (i < first && !bad.compare_exchange_weak(first, i)) {
      }
    };
    for (int i = thread; i < alone; i += threads) image(i, buffers_[static_cast<size_t>(thread)], {0, 1, nullptr, nullptr});
    if (alone < batch) w.all.wait();  // nobody may touch the first thread's buffers before it has left them
    for (int i = alone; i < batch; ++i) image(i, buffers_[0], {thread, threads, &w.all, &w.teams});
  });
  return bad.load() == batch ? -1 : bad.load();
}

int Network::trace(const float* image, float* logits, const Tap& tap) {
  const std::lock_guard lock(workers().mutex);
  return forward(image, logits, buffers_[0], {0, 1, nullptr, nullptr}, &tap) ? -1 : 0;
}

std::vector<KernelRun> Network::kernel_runs(const float* image, float* logits) {
  const std::lock_guard lock(workers().mutex);
  std::vector<KernelRun> runs;
  struct Notes {
    std::vector<KernelRun>*& target;
    ~Notes() { target = nullptr; }
  } const notes{runs_ = &runs};
  forward(image, logits, buffers_[0], {0, 1, nullptr, nullptr}, nullptr);
  return runs;
}

Network::Place Network::place_of(size_t stage, const Crew& crew) const {
  if (crew.threads == 1) return {{0, 1}, {0, 1}, nullptr, false};
  const int teams = model_.stages[stage].teams, members = crew.threads / teams;
  const int team = crew.thread / members;
  if (team >= teams) return {{0, 1}, {0, 1}, nullptr, true};
  return {{team, teams}, {crew.thread % members, members}, &(*crew.teams)[stage][static_cast<size_t>(team)], false};
}

// ------------------------------------------------------------------------------------------------------ the forward pass

bool Network::forward(const float* image, float* logits, Buffers& shared, const Crew& crew, const Tap* tap) {
  Buffers& own = crew.threads == 1 ? shared : buffers_[static_cast<size_t>(crew.thread)];
  const Share share{crew.thread, crew.threads};
  auto meet = [&] {
    if (crew.all) crew.all->wait();
  };
  int16_t *stream = shared.stream[0], *other = shared.stream[1];
  // The streams of the stages take turns in two buffers: what lies where this stage has its row of zeros is another's data.
  auto clear_zero_row = [&](const Stage& stage) {
    const size_t stride = stride_of(stage.channels);
    if (crew.thread == 0)
      std::fill_n(stream + static_cast<size_t>(StreamRows{stage.tokens}.zero_row()) * stride, stride, int16_t{0});
  };
  embed(image, shared, own, share);
  clear_zero_row(model_.stages[0]);
  meet();
  for (size_t s = 0; s < model_.stages.size(); ++s) {
    const Stage& stage = model_.stages[s];
    const size_t stride = stride_of(stage.channels);
    if (stage.merge) {
      merge(stage, stream, other, own, share);
      std::swap(stream, other);
      clear_zero_row(stage);
      meet();
    }
    if (tap)
      give(*tap, stage.merge ? stage.merge->name : "patch_embed", Type::kS16, stream, stride, stage.channels, stage.tokens,
           stage.raster, stage.tokens);
    const Place place = place_of(s, crew);
    const int team_leader = place.windows.part * (crew.threads / std::max(1, place.windows.parts));
    Buffers& team = crew.threads == 1 ? shared : buffers_[static_cast<size_t>(team_leader)];
    for (const Block& block : stage.blocks) {
      if (!place.idle) run_block({stage, block, stream, team, own, place, tap});
      meet();
      if (tap) give(*tap, block.name, Type::kS16, stream, stride, stage.channels, stage.tokens, stage.raster, stage.tokens);
    }
  }
  if (crew.thread == 0) pool(stream, shared);
  meet();
  const Head& head = model_.head;
  kernels_.classify({shared.pooled, head.weight, head.stride, head.bias, head.logit_scale, share.begin(head.classes),
                     share.end(head.classes), logits});
  meet();
  bool finite = true;
  for (int t = 0; t < crew.threads; ++t)
    finite &= (crew.threads == 1 ? shared : buffers_[static_cast<size_t>(t)]).not_finite == 0;
  meet();  // the next image resets what was just read
  return finite;
}

void Network::embed(const float* image, Buffers& shared, Buffers& own, Share share) const {
  const int rows = model_.height / model_.patch[0], patches = model_.width / model_.patch[1];
  const size_t in_stride = stride_of(model_.patch_layer.inputs), out_stride = stride_of(model_.patch_layer.outputs);
  own.not_finite = 0;
  for (int row = share.begin(rows); row < share.end(rows); ++row) {
    for (int channel = 0; channel < model_.channels; ++channel)
      kernels_.quantize_patches(
          {image + (static_cast<size_t>(channel) * model_.height + static_cast<size_t>(row) * model_.patch[0]) * model_.width,
           model_.width, model_.patch[0], model_.patch[1], model_.inverse_input_scale, model_.input_zero_point,
           own.normed + static_cast<size_t>(channel) * model_.patch[0] * model_.patch[1], in_stride, own.pixels,
           &own.not_finite});
    gemm(model_.patch_layer, own.normed, patches, {0, 1}, own.s16, out_stride);
    layer_norm(model_.patch_norm, own.s16, model_.stages[0].raster, patches, true,
               shared.stream[0] + static_cast<size_t>(row) * patches * out_stride, out_stride);
  }
}

void Network::merge(const Stage& stage, const int16_t* from, int16_t* to, Buffers& own, Share share) const {
  const Merge& merge = *stage.merge;
  const size_t in_stride = stride_of(merge.norm.channels()), out_stride = stride_of(stage.channels);
  const int end = share.end(stage.tokens);
  for (int token = share.begin(stage.tokens); token < end; token += kRowsAtOnce) {
    const int count = std::min(kRowsAtOnce, end - token);
    layer_norm(merge.norm, from, merge.rows + static_cast<size_t>(token) * 4, count, false, own.normed, in_stride);
    gemm(merge.reduction, own.normed, count, {0, 1}, to + static_cast<size_t>(token) * out_stride, out_stride);
  }
}

void Network::run_block(const Work& work) const {
  const Windows& windows = *work.block.windows;
  const int first = work.place.windows.begin(windows.count), end = work.place.windows.end(windows.count);
  const auto rows_of = [&](int window) { return windows.rows + static_cast<size_t>(window) * windows.tokens; };
  const int step = windows_at_once(windows.tokens);
  const bool whole = whole_layer(work.block);
  for (int w = first; w < end; w += step) {
    const int count = std::min(step, end - w);
    attend(work, w, count);
    if (!whole) transform(work, rows_of(w), count * windows.tokens);
  }
  if (whole) transform(work, rows_of(first), (end - first) * windows.tokens);
}

// LayerNorm, QKV, attention, projection, residual.
void Network::attend(const Work& work, int first_window, int window_count) const {
  const auto& [stage, block, stream, team, own, place, tap] = work;
  const Windows& windows = *block.windows;
  const int tokens = windows.tokens, count = window_count * tokens, width = block.qkv.outputs / 3;
  const int32_t* rows = windows.rows + static_cast<size_t>(first_window) * tokens;
  const size_t normed_stride = stride_of(stage.channels);
  const size_t qkv_stride = stride_of(block.qkv.outputs), context_stride = stride_of(width);

  layer_norm(block.norm1, stream, rows, count, false, own.normed, normed_stride);
  if (tap) give(*tap, block.name + ".norm1", Type::kS8, own.normed, normed_stride, stage.channels, count, rows, stage.tokens);
  gemm(block.qkv, own.normed, count, place.work, team.qkv, qkv_stride);
  if (block.pad) {  // a padding token is the bias alone: each member repairs the columns it has written
    const int panel = kernels_.layout.columns(), panels = panel_count(block.qkv.outputs, kernels_.layout);
    const int from = place.work.begin(panels) * panel, to = std::min(place.work.end(panels) * panel, block.qkv.outputs);
    for (int r = 0; r < count; ++r)
      if (rows[r] >= stage.tokens)
        std::copy(block.pad + from, block.pad + to, team.qkv + static_cast<size_t>(r) * qkv_stride + from);
  }
  place.meet();

  const int heads = static_cast<int>(block.heads.size()), items = window_count * heads;
  for (int item = place.work.begin(items); item < place.work.end(items); ++item) {
    const int window = item / heads, head = item % heads, index = windows.mask_of[static_cast<size_t>(first_window + window)];
    const Mask mask = index < 0 ? Mask{} : windows.masks[static_cast<size_t>(index)];
    const uint8_t* qkv = team.qkv + static_cast<size_t>(window) * tokens * qkv_stride;
    uint8_t* context = team.context + static_cast<size_t>(window) * tokens * context_stride;
    kernels_.attention({qkv, qkv_stride, tokens, block.head_dim, width, head, &block.heads[static_cast<size_t>(head)], mask.limit,
                        mask.keep, model_.softmax_table, context, context_stride, own.attention});
  }
  place.meet();
  if (tap) give(*tap, block.name + ".attn.context", Type::kS8, team.context, context_stride, width, count, rows, stage.tokens);

  gemm(block.proj, team.context, count, place.work, stream, stride_of(stage.channels), rows);
  place.meet();
}

// LayerNorm, fc1 with its activation, fc2, residual.
void Network::transform(const Work& work, const int32_t* rows, int count) const {
  const auto& [stage, block, stream, team, own, place, tap] = work;
  const size_t normed_stride = stride_of(stage.channels), hidden_stride = stride_of(block.fc1.outputs);
  layer_norm(block.norm2, stream, rows, count, false, own.normed, normed_stride);
  if (tap) give(*tap, block.name + ".norm2", Type::kS8, own.normed, normed_stride, stage.channels, count, rows, stage.tokens);
  if (block.elementwise) {
    gemm(block.fc1, own.normed, count, place.work, team.stored, hidden_stride);
    place.meet();
    const int begin = place.work.begin(count), end = place.work.end(count);
    const size_t at = static_cast<size_t>(begin) * hidden_stride;
    const size_t element = writes_s16(block.fc1.epilogue) ? sizeof(int16_t) : 1;
    const auto kernel = kernels_.elementwise[static_cast<int>(block.elementwise->kernel)];
    if (runs_) note(&*block.elementwise, std::string(name(block.elementwise->kernel)) + "_" + kernels_.isa, address(kernel));
    kernel({team.stored + at * element, team.hidden + at, end - begin, block.fc1.outputs, hidden_stride,
            &block.elementwise->channels, block.elementwise->after_gemm_scale});
  } else {
    gemm(block.fc1, own.normed, count, place.work, team.hidden, hidden_stride);
  }
  place.meet();
  if (tap)
    give(*tap, block.name + ".mlp.hidden", block.signed_hidden ? Type::kS8 : Type::kU8, team.hidden, hidden_stride,
         block.fc1.outputs, count, rows, stage.tokens);
  gemm(block.fc2, team.hidden, count, place.work, stream, stride_of(stage.channels), rows);
  place.meet();
}

// Final LayerNorm, sum over the tokens, one fixed-point requantization to 12 bits.
void Network::pool(const int16_t* stream, Buffers& own) const {
  const Stage& stage = model_.stages.back();
  const Head& head = model_.head;
  const size_t stride = stride_of(stage.channels);
  std::fill_n(own.sums, stage.channels, 0);
  for (int token = 0; token < stage.tokens; token += kRowsAtOnce) {
    const int count = std::min(kRowsAtOnce, stage.tokens - token);
    layer_norm(head.norm, stream, stage.raster + token, count, true, own.s16, stride);
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < stage.channels; ++c) own.sums[c] += own.s16[static_cast<size_t>(r) * stride + static_cast<size_t>(c)];
  }
  const int half = head.pool_shift > 0 ? 1 << (head.pool_shift - 1) : 0;
  for (int c = 0; c < stage.channels; ++c) {
    const auto v = std::clamp<int64_t>((int64_t{own.sums[c]} + half) >> head.pool_shift, INT16_MIN, INT16_MAX);
    own.pooled[c] = static_cast<int16_t>(std::clamp<int64_t>((v * head.pool_multiplier + (1 << 14)) >> 15, -2048, 2047));
  }
}

// -------------------------------------------------------------------------------------------------------- kernel calls

void Network::layer_norm(const Norm& norm, const int16_t* stream, const int32_t* rows, int count, bool s16, void* output,
                         size_t output_stride) const {
  if (runs_) note(&norm, std::string("layer_norm_") + kernels_.isa, address(kernels_.layer_norm));
  kernels_.layer_norm({stream, stride_of(norm.width), rows, count, norm.segments, norm.width, norm.epsilon_term, norm.factor,
                       norm.gamma, norm.beta, s16, output, output_stride});
}

void Network::gemm(const PackedLinear& layer, const uint8_t* input, int rows, Share panels, void* output, size_t output_stride,
                   const int32_t* row_index) const {
  const int count = panel_count(layer.outputs, kernels_.layout);
  const auto kernel = kernels_.gemm[static_cast<int>(layer.epilogue)];
  if (runs_) note(&layer, gemm_name(kernels_, layer.epilogue), address(kernel));
  kernel(
      {input, stride_of(layer.inputs), rows, &layer, panels.begin(count), panels.end(count), output, output_stride, row_index});
}

void Network::note(const void* part, const std::string& kernel, const void* code) const {
  for (const Stage& stage : model_.stages)
    for (const Block& block : stage.blocks) {
      const void* activation = block.elementwise ? &*block.elementwise : nullptr;
      const std::pair<const void*, const char*> parts[] = {
          {&block.norm1, ".norm1"}, {&block.qkv, ".attn.qkv"},       {&block.proj, ".attn.proj"}, {&block.norm2, ".norm2"},
          {&block.fc1, ".mlp.fc1"}, {activation, ".mlp.activation"}, {&block.fc2, ".mlp.fc2"},
      };
      for (const auto& [known, ending] : parts)
        if (known == part) runs_->push_back({block.name + ending, kernel, code});
    }
}

}  // namespace geluless
