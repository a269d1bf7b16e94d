// Entry points: a pool of threads, and a list of operations to run on it over one step.
#include "amx.h"
#include "attention.h"
#include "linear.h"
#include "pointwise.h"
#include "pool.h"
#include "step.h"

namespace bough {

// The step's query tokens in chunks of at most `limit`, longest contexts first so that threads end together.
static std::vector<QueryChunk> split_queries(const Step& step, int limit) {
  std::vector<QueryChunk> chunks;
  for (int64_t row = step.num_rows - 1; row >= 0; --row) {
    const int32_t begin = step.query_start[row], end = step.query_start[row + 1];
    const int32_t count = (end - begin + limit - 1) / limit;
    for (int32_t i = count - 1; i >= 0; --i) {
      const int32_t first = begin + i * limit;
      chunks.push_back({static_cast<int32_t>(row), first, std::min<int32_t>(limit, end - first)});
    }
  }
  return chunks;
}

template <typename T>
static void run_op(const Op& op, const Context& context) {
  switch (op.kind) {
    case kEmbed: return embed<T>(op, context);
    case kTakeRows: return take_rows<T>(op, context);
    case kNorm: return norm<T>(op, context);
    case kLinear:
    case kAddLinear:
    case kGatedLinear:
    case kLogits: return linear<T>(op, context);
    case kStore: return store<T>(op, context);
    case kAttend: return attend<T>(op, context);
  }
}

}  // namespace bough

#define BOUGH_EXPORT __attribute__((visibility("default")))

extern "C" {

// Size of the structures, so that the caller can check that it has the same idea of them.
BOUGH_EXPORT int64_t bough_struct_bytes() { return (sizeof(bough::Op) << 16) | sizeof(bough::Step); }

// Whether the tile unit can be used by this process.
BOUGH_EXPORT int bough_amx_available() { return bough::amx_available() ? 1 : 0; }

BOUGH_EXPORT void* bough_pool_create(int num_threads) { return new bough::Pool(num_threads); }

BOUGH_EXPORT void bough_pool_destroy(void* pool) { delete static_cast<bough::Pool*>(pool); }

// `seconds` is null, or takes the time that each operation took.
BOUGH_EXPORT void bough_run(void* pool, const bough::Op* ops, int64_t num_ops, const bough::Step* step, int use_amx,
                            double* seconds) {
  bough::Context context{*step, use_amx != 0, *static_cast<bough::Pool*>(pool), {}};
  for (int64_t i = 0; i < num_ops; ++i) {
    if (ops[i].kind == bough::kAttend) {
      context.chunks = bough::split_queries(*step, bough::tokens_per_chunk(ops[i].num_heads / ops[i].num_kv_heads));
      break;
    }
  }
  for (int64_t i = 0; i < num_ops; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    if (ops[i].type == bough::kFloat32)
      bough::run_op<float>(ops[i], context);
    else
      bough::run_op<bough::bf16>(ops[i], context);
    if (seconds != nullptr)
      seconds[i] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  context.pool.own_scratch().release_tiles();
}

// Packs rows of a weight [out, in] into panels: bytes of [out padded / 16][in / group][16][group]. `order` names the
// source row of each packed column, -1 for a column of zeros.
BOUGH_EXPORT void bough_pack(const void* weight, void* packed, const int64_t* order, int64_t num_columns, int64_t in,
                             int32_t type) {
  const int64_t g = type == bough::kFloat32 ? 1 : 2, lanes = in / g;
  const uint32_t* source = static_cast<const uint32_t*>(weight);
  uint32_t* target = static_cast<uint32_t*>(packed);
  for (int64_t column = 0; column < num_columns; ++column) {
    uint32_t* out = target + column / 16 * lanes * 16 + column % 16;
    for (int64_t i = 0; i < lanes; ++i) out[i * 16] = order[column] < 0 ? 0 : source[order[column] * lanes + i];
  }
}
}
