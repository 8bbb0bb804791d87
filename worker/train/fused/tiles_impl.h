// The loops of TileKernels for Intel's AMX; kernels_impl.h includes this where the compiler may use
// it. A tile register holds 16 rows of 64 bytes: with A of [16][32] halves and B of [16 pairs][16]
// pairs of halves a product adds A B to C, [16][16] floats.

static_assert(kLanes == kBlock);

// 16 rows of 64 bytes in every register, so that one configuration serves all loops.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

void tiles_begin() {
  static constexpr TileConfiguration kConfiguration;
  asm volatile("ldtilecfg %0" : : "m"(kConfiguration));
}

void tiles_end() {
  asm volatile("tilerelease" : : : "memory");
}

// The compilers' intrinsics do not say that they read memory.
template <int kTile>
BITRUNG_INLINE void tile_load(const void* from, long row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(row_bytes), "i"(kTile)
               : "memory");
}

template <int kTile>
BITRUNG_INLINE void tile_store(void* to, long row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(row_bytes), "i"(kTile) : "memory");
}

template <int kTile>
BITRUNG_INLINE void tile_clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kC, int kA, int kB>
BITRUNG_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

template <int kC, int kA, int kB>
BITRUNG_INLINE void tile_multiply_codes() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

constexpr long kLineBytes = sizeof(Line);
constexpr int kTileLines = 16;
constexpr int kChunk = 32;  // Pixels that a product of gradients of weights sums up.

BITRUNG_INLINE void store_line(Line* to, __m512i value) {
  _mm512_store_si512(to, value);
}

BITRUNG_INLINE __m512i bits_of(Floats value) {
  return reinterpret_cast<__m512i>(value);
}

BITRUNG_INLINE Floats floats_of(__m512i bits) {
  return reinterpret_cast<Floats>(bits);
}

// The nearest number with the upper half of the bits, away from 0 in ties.
BITRUNG_INLINE __m512i upper_half(Floats value) {
  const __m512i half = _mm512_add_epi32(bits_of(value), _mm512_set1_epi32(0x8000));
  return _mm512_and_si512(half, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U)));
}

// Upper halves of two pixels, [16][2].
BITRUNG_INLINE __m512i pair_of(__m512i first, __m512i second) {
  return _mm512_or_si512(_mm512_srli_epi32(first, 16), second);
}

// The halves nearest to two numbers, behind each other.
BITRUNG_INLINE __m512i two_halves(__m512i first, __m512i second) {
  return reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
}

// [16 pairs][16 channels] pairs to [16 channels][16 pairs].
BITRUNG_INLINE void transpose(const Line* from, Line* to) {
  const auto quarter = [from](int row, int q) {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(from + row) + q);
  };
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    __m512i rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      // Rows i, i + 4, i + 8 and i + 12.
      rows[i] = _mm512_castsi128_si512(quarter(i, q));
      rows[i] = _mm512_mask_broadcast_i32x4(rows[i], 0x00F0, quarter(i + 4, q));
      rows[i] = _mm512_mask_broadcast_i32x4(rows[i], 0x0F00, quarter(i + 8, q));
      rows[i] = _mm512_mask_broadcast_i32x4(rows[i], 0xF000, quarter(i + 12, q));
    }
    const __m512i a = _mm512_unpacklo_epi32(rows[0], rows[1]);
    const __m512i b = _mm512_unpacklo_epi32(rows[2], rows[3]);
    const __m512i c = _mm512_unpackhi_epi32(rows[0], rows[1]);
    const __m512i d = _mm512_unpackhi_epi32(rows[2], rows[3]);
    store_line(to + 4 * q, _mm512_unpacklo_epi64(a, b));
    store_line(to + 4 * q + 1, _mm512_unpackhi_epi64(a, b));
    store_line(to + 4 * q + 2, _mm512_unpacklo_epi64(c, d));
    store_line(to + 4 * q + 3, _mm512_unpackhi_epi64(c, d));
  }
}

// Brings lines of 64 bytes nearer; a multiplication of tiles leaves time for about two.
BITRUNG_INLINE void fetch(Ahead& ahead, int lines) {
  if (ahead.count == 0) {
    return;
  }
  Ahead::Range& range = ahead.ranges[ahead.count - 1];
  for (int i = 0; i < lines; ++i) {
    _mm_prefetch(range.begin + i * kLineBytes, _MM_HINT_T1);
  }
  range.begin += lines * kLineBytes;
  if (range.begin >= range.end) {
    --ahead.count;
  }
}

// ---- gradients of outputs

// Where the lines of a gradient's pixels lie: pixel (y + i, x + j) for i and j of -1 to 1 at
// (i + 1) row + (j + 1) column + (y row + x) lines from a block's first one, so that 16 pixels of
// one or of two rows lie behind each other.
struct RowsForm {
  long row;
  long column;
  long block;
};

BITRUNG_INLINE RowsForm rows_form(int side) {
  const long rows = side + 2;
  if (side % kBlock == 0) {
    return {rows, 1, rows * rows};
  }
  return {side, rows * side, 3 * rows * side};
}

// What is left of a row's pixels, and rows of zeros above and below.
void write_frame(int side, Line* rows) {
  const RowsForm form = rows_form(side);
  const __m512i zero = _mm512_setzero_si512();
  if (form.column == 1) {
    for (long i = 0; i < form.row; ++i) {
      store_line(rows + i, zero);
      store_line(rows + (form.row - 1) * form.row + i, zero);
      store_line(rows + i * form.row, zero);
      store_line(rows + i * form.row + form.row - 1, zero);
    }
    return;
  }
  for (int j = 0; j < 3; ++j) {
    Line* const copy = rows + j * form.column;
    for (int x = 0; x < side; ++x) {
      store_line(copy + x, zero);
      store_line(copy + (side + 1) * side + x, zero);
    }
  }
  for (int y = 1; y <= side; ++y) {
    store_line(rows + y * side, zero);
    store_line(rows + 2 * form.column + y * side + side - 1, zero);
  }
}

// The line of pixel (y, x).
BITRUNG_INLINE void write_pixel(int side, Line* rows, int y, int x, __m512i line) {
  if (side % kBlock == 0) {
    store_line(rows + (y + 1) * (side + 2) + x + 1, line);
    return;
  }
  const long column = static_cast<long>(side + 2) * side;
  Line* const to = rows + (y + 1) * side + x;
  store_line(to + column, line);
  if (x + 1 < side) {
    store_line(to + 1, line);
  }
  if (x > 0) {
    store_line(to + 2 * column - 1, line);
  }
}

// One block's gradients, value(pixel) each, into both forms; rows may be null.
template <int kPieces, typename Value>
BITRUNG_INLINE void write_gradients(int side, int block, int blocks, const Value& value, Line* rows,
                                    Line* columns) {
  const int chunks = side * side / kChunk;
  const RowsForm form = rows_form(side);
  Line* const block_rows = rows == nullptr ? nullptr : rows + block * form.block;
  Line* const more_rows = rows == nullptr ? nullptr : block_rows + blocks * form.block;
  if (block_rows != nullptr) {
    write_frame(side, block_rows);
    if constexpr (kPieces == 3) {
      write_frame(side, more_rows);
    }
  }
  int y = 0;
  int x = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    Line high[kTileLines];
    Line low[kTileLines];
#pragma GCC unroll 1
    for (int k = 0; k < kTileLines; ++k) {
      __m512i upper[2];
      __m512i lower[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Floats v = value(chunk * kChunk + 2 * k + i);
        upper[i] = upper_half(v);
        const Floats rest = v - floats_of(upper[i]);
        lower[i] = upper_half(rest);
        if (block_rows != nullptr) {
          write_pixel(side, block_rows, y, x + i, two_halves(upper[i], lower[i]));
          if constexpr (kPieces == 3) {
            write_pixel(side, more_rows, y, x + i,
                        two_halves(bits_of(rest - floats_of(lower[i])), upper[i]));
          }
        }
      }
      x += 2;
      if (x == side) {
        x = 0;
        ++y;
      }
      store_line(high + k, pair_of(upper[0], upper[1]));
      store_line(low + k, pair_of(lower[0], lower[1]));
    }
    Line* const to = columns + (static_cast<long>(block) * chunks + chunk) * kTileLines;
    transpose(high, to);
    transpose(low, to + static_cast<long>(blocks) * chunks * kTileLines);
  }
}

template <typename Value>
BITRUNG_INLINE void write_pieces(int pieces, int side, int block, int blocks, const Value& value,
                                 Line* rows, Line* columns) {
  if (pieces == 2) {
    write_gradients<2>(side, block, blocks, value, rows, columns);
  } else {
    write_gradients<3>(side, block, blocks, value, rows, columns);
  }
}

void tile_norm_gradients(const float* g, const float* x, int side, int blocks,
                         const NormBackward& norm, const float* factors, const float* other,
                         float* sum, int pieces, Line* rows, Line* columns) {
  for (int block = 0; block < blocks; ++block) {
    const int channel = block * kBlock;
    const Floats scale = load(norm.scale + channel);
    const Floats mean = load(norm.mean + channel);
    const Floats slope = load(norm.slope + channel);
    const Floats constant = load(norm.constant + channel);
    const Floats factor = load(factors + channel);
    const long plane = static_cast<long>(block) * side * side * kBlock;
    const auto plain = [&](int pixel) {
      const long at = plane + static_cast<long>(pixel) * kBlock;
      return scale * load(g + at) + (slope * (load(x + at) - mean) + constant);
    };
    const auto with_sum = [&](int pixel) {
      const long at = plane + static_cast<long>(pixel) * kBlock;
      Floats value = plain(pixel);
      if (other != nullptr) {
        value += load(other + at);
      }
      store(sum + at, value);
      return value * factor;
    };
    if (sum != nullptr) {
      write_pieces(pieces, side, block, blocks, with_sum, rows, columns);
    } else if (other != nullptr) {
      write_pieces(
          pieces, side, block, blocks,
          [&](int pixel) {
            return (plain(pixel) + load(other + plane + static_cast<long>(pixel) * kBlock)) *
                   factor;
          },
          rows, columns);
    } else {
      write_pieces(
          pieces, side, block, blocks, [&](int pixel) { return plain(pixel) * factor; }, rows,
          columns);
    }
  }
}

void tile_gradients(const float* dy, int side, int blocks, const float* factors, int pieces,
                    Line* rows, Line* columns) {
  for (int block = 0; block < blocks; ++block) {
    const float* const from = dy + static_cast<long>(block) * side * side * kBlock;
    const Floats factor = load(factors + block * kBlock);
    write_pieces(
        pieces, side, block, blocks,
        [&](int pixel) { return load(from + static_cast<long>(pixel) * kBlock) * factor; }, rows,
        columns);
  }
}

// ---- values

// Rows of inputs in the order in which a row of taps meets them: at stride 2 the odd ones behind a
// row of zeros, then the even ones.
struct RowOrder {
  int stride;
  int side;  // Of the output.

  // The place of row y, -1 <= y <= side * stride.
  BITRUNG_INLINE int place(int y) const {
    return stride == 1 ? y + 1 : y % 2 == 0 ? side + 1 + y / 2 : (y + 1) / 2;
  }
  // The place of the row that tap row 0, 1 or 2 of the first row of outputs meets.
  BITRUNG_INLINE int first(int tap_row) const { return place(tap_row - 1); }
  BITRUNG_INLINE int count() const { return stride == 1 ? side + 2 : 2 * side + 1; }
};

// One row of a block's values to pairs, once for each column of taps.
template <int kPieces>
BITRUNG_INLINE void write_pairs(const Line* row, int stride, int side, int row_place, long copy,
                                long piece, Line* to) {
  // row[piece][x + 1]: the halves of pixel x, in floats.
  const long row_lines = static_cast<long>(side) * stride + 2;
#pragma GCC unroll 2
  for (int p = 0; p < kPieces; ++p) {
    for (int c = 0; c < 3; ++c) {
      const Line* from = row + p * row_lines + c;
      Line* out = to + p * piece + c * copy + static_cast<long>(row_place) * (side / 2);
      for (int k = 0; k < side / 2; ++k, from += 2 * stride) {
        store_line(out + k, pair_of(_mm512_load_si512(from), _mm512_load_si512(from + stride)));
      }
    }
  }
}

// Of the widest row in two pieces, with a pixel of zeros at either end.
constexpr int kRowLinesMax = 2 * (32 + 2);

template <Activation::Kind kKind, int kPieces>
void tile_activate_as(const Convolution& shape, const float* x, const NormForward& norm,
                      const Activation& rule, Line* pairs) {
  const int in_side = shape.side * shape.stride;
  const RowOrder order{shape.stride, shape.side};
  const long copy = static_cast<long>(order.count()) * (shape.side / 2);
  const long piece = 3 * copy;
  const long row_lines = in_side + 2;
  const __m512i zero = _mm512_setzero_si512();
  Line row[kRowLinesMax];
  for (int p = 0; p < kPieces; ++p) {
    store_line(row + p * row_lines, zero);
    store_line(row + p * row_lines + in_side + 1, zero);
  }
  for (int block = 0; block < shape.in_blocks; ++block) {
    const Floats scale = load(norm.scale + block * kBlock);
    const Floats offset = load(norm.offset + block * kBlock);
    Line* const to = pairs + block * kPieces * piece;
    const auto clear = [&](int place) {
      for (int c = 0; c < 3 * kPieces; ++c) {
        for (int k = 0; k < shape.side / 2; ++k) {
          store_line(to + c * copy + static_cast<long>(place) * (shape.side / 2) + k, zero);
        }
      }
    };
    clear(order.place(-1));
    if (shape.stride == 1) {
      clear(order.place(in_side));
    }
    for (int y = 0; y < in_side; ++y) {
      for (int p = 0; p < in_side; ++p, x += kBlock) {
        const Floats z = load(x) * scale + offset;
        Floats value;
        if constexpr (kKind == Activation::Kind::kRelu) {
          value = above_zero(z);
        } else {
          value = code_of<kKind>(z, rule);
        }
        if constexpr (kPieces == 1) {
          store_line(row + p + 1, bits_of(value));  // A code's lower half is 0.
        } else {
          if constexpr (kKind != Activation::Kind::kRelu) {
            value *= rule.step;
          }
          const __m512i upper = upper_half(value);
          store_line(row + p + 1, upper);
          store_line(row + row_lines + p + 1, upper_half(value - floats_of(upper)));
        }
      }
      write_pairs<kPieces>(row, shape.stride, shape.side, order.place(y), copy, piece, to);
    }
  }
}

void tile_activate(const Convolution& shape, const float* x, const NormForward& norm,
                   const Activation& rule, int pieces, Line* pairs) {
  switch (rule.kind) {
    case Activation::Kind::kRelu:
      return tile_activate_as<Activation::Kind::kRelu, 2>(shape, x, norm, rule, pairs);
    case Activation::Kind::kNearest:
      return pieces == 1
                 ? tile_activate_as<Activation::Kind::kNearest, 1>(shape, x, norm, rule, pairs)
                 : tile_activate_as<Activation::Kind::kNearest, 2>(shape, x, norm, rule, pairs);
    case Activation::Kind::kSign:
      return tile_activate_as<Activation::Kind::kSign, 1>(shape, x, norm, rule, pairs);
  }
}

// ---- gradients of weights

// C tiles of kTaps taps: c[t] += the products of `chunks` tiles of both pieces of gradients with
// the tap's values.
template <int kTaps, int kPieces>
BITRUNG_INLINE void multiply_chunks(const Line* high, const Line* low, const Line* const* values,
                                    long piece, int chunks, float* const* sums, Ahead& ahead) {
  tile_load<0>(sums[0], kLineBytes);
  if constexpr (kTaps == 3) {
    tile_load<1>(sums[1], kLineBytes);
    tile_load<2>(sums[2], kLineBytes);
  }
  for (long at = 0; at < static_cast<long>(chunks) * kTileLines; at += kTileLines) {
    fetch(ahead, 8 * kTaps);
    tile_load<3>(high + at, kLineBytes);
    tile_load<4>(low + at, kLineBytes);
    tile_load<5>(values[0] + at, kLineBytes);
    tile_multiply<0, 3, 5>();
    tile_multiply<0, 4, 5>();
    if constexpr (kTaps == 3) {
      tile_load<6>(values[1] + at, kLineBytes);
      tile_multiply<1, 3, 6>();
      tile_multiply<1, 4, 6>();
      tile_load<7>(values[2] + at, kLineBytes);
      tile_multiply<2, 3, 7>();
      tile_multiply<2, 4, 7>();
    }
    if constexpr (kPieces == 2) {
      tile_load<5>(values[0] + piece + at, kLineBytes);
      tile_multiply<0, 3, 5>();
      if constexpr (kTaps == 3) {
        tile_load<6>(values[1] + piece + at, kLineBytes);
        tile_multiply<1, 3, 6>();
        tile_load<7>(values[2] + piece + at, kLineBytes);
        tile_multiply<2, 3, 7>();
      }
    }
  }
  tile_store<0>(sums[0], kLineBytes);
  if constexpr (kTaps == 3) {
    tile_store<1>(sums[1], kLineBytes);
    tile_store<2>(sums[2], kLineBytes);
  }
}

// Chunks that are multiplied for all taps before the next ones: few enough to stay in the cache.
constexpr int kChunksTogether = 4;

template <int kPieces>
void tile_weight_gradients_of(const Convolution& shape, const Line* pairs, const Line* columns,
                              float* dw, Ahead& ahead) {
  constexpr long kTileFloats = kBlock * kBlock;
  const RowOrder order{shape.stride, shape.side};
  const long row = shape.side / 2;
  const long copy = order.count() * row;
  const long piece = 3 * copy;
  const int chunks = shape.side * shape.side / kChunk;
  const long block_columns = static_cast<long>(chunks) * kTileLines;
  const long low = shape.out_blocks * block_columns;
  const long tap = static_cast<long>(shape.in_blocks) * shape.out_blocks * kTileFloats;
  for (int first = 0; first < chunks; first += kChunksTogether) {
    const int count = first + kChunksTogether < chunks ? kChunksTogether : chunks - first;
    for (int i = 0; i < shape.in_blocks; ++i) {
      const Line* const block = pairs + i * kPieces * piece + static_cast<long>(first) * kTileLines;
      for (int o = 0; o < shape.out_blocks; ++o) {
        const Line* const high =
            columns + o * block_columns + static_cast<long>(first) * kTileLines;
        float* const to = dw + (static_cast<long>(i) * shape.out_blocks + o) * kTileFloats;
        if (shape.taps == 1) {
          const Line* const values[1] = {block + copy + order.first(1) * row};
          float* const sums[1] = {to};
          multiply_chunks<1, kPieces>(high, high + low, values, piece, count, sums, ahead);
          continue;
        }
        for (int r = 0; r < 3; ++r) {
          const Line* const from = block + order.first(r) * row;
          const Line* const values[3] = {from, from + copy, from + 2 * copy};
          float* const sums[3] = {to + (3 * r) * tap, to + (3 * r + 1) * tap,
                                  to + (3 * r + 2) * tap};
          multiply_chunks<3, kPieces>(high, high + low, values, piece, count, sums, ahead);
        }
      }
    }
  }
}

void tile_weight_gradients(const Convolution& shape, const Line* pairs, int pieces,
                           const Line* columns, float* dw, Ahead& ahead) {
  if (pieces == 1) {
    tile_weight_gradients_of<1>(shape, pairs, columns, dw, ahead);
  } else {
    tile_weight_gradients_of<2>(shape, pairs, columns, dw, ahead);
  }
}

// ---- gradients of inputs

// The products of one tap: C += A B for kM tiles of 16 pixels and kN blocks of input channels.
template <int kM, int kN>
BITRUNG_INLINE void multiply_tap(const Line* const* from, long at, const Line* w,
                                 long block_weights) {
  tile_load<6>(w, kLineBytes);
  tile_load<4>(from[0] + at, kLineBytes);
  tile_multiply<0, 4, 6>();
  tile_load<5>(from[1] + at, kLineBytes);
  if constexpr (kN == 2) {
    static_assert(kM == 2);
    tile_load<7>(w + block_weights, kLineBytes);
    tile_multiply<1, 4, 7>();
    tile_multiply<2, 5, 6>();
    tile_multiply<3, 5, 7>();
  } else {
    static_assert(kM == 4);
    tile_multiply<1, 5, 6>();
    tile_load<4>(from[2] + at, kLineBytes);
    tile_multiply<2, 4, 6>();
    tile_load<5>(from[3] + at, kLineBytes);
    tile_multiply<3, 5, 6>();
  }
}

// Those with the tap's second tile of weights as well.
template <int kM, int kN>
BITRUNG_INLINE void multiply_tap_twice(const Line* const* from, long at, const Line* w,
                                       long block_weights) {
  if constexpr (kN == 2) {
    tile_load<4>(from[0] + at, kLineBytes);
    tile_load<5>(from[1] + at, kLineBytes);
    for (int piece = 0; piece < 2; ++piece, w += kTileLines) {
      tile_load<6>(w, kLineBytes);
      tile_multiply<0, 4, 6>();
      tile_multiply<2, 5, 6>();
      tile_load<7>(w + block_weights, kLineBytes);
      tile_multiply<1, 4, 7>();
      tile_multiply<3, 5, 7>();
    }
  } else {
    tile_load<6>(w, kLineBytes);
    tile_load<7>(w + kTileLines, kLineBytes);
    tile_load<4>(from[0] + at, kLineBytes);
    tile_multiply<0, 4, 6>();
    tile_multiply<0, 4, 7>();
    tile_load<5>(from[1] + at, kLineBytes);
    tile_multiply<1, 5, 6>();
    tile_multiply<1, 5, 7>();
    tile_load<4>(from[2] + at, kLineBytes);
    tile_multiply<2, 4, 6>();
    tile_multiply<2, 4, 7>();
    tile_load<5>(from[3] + at, kLineBytes);
    tile_multiply<3, 5, 6>();
    tile_multiply<3, 5, 7>();
  }
}

// A tile of 16 pixels to or from a plane of gradients of inputs.
struct PixelPlane {
  long step;  // Bytes from a pixel to the next.
  long skip;  // More than that between the eighth and the ninth.
};

template <int kTile>
BITRUNG_INLINE void begin_pixels(const PixelPlane& plane, const float* added, long at) {
  if (added == nullptr) {
    tile_clear<kTile>();
  } else if (plane.skip == 0) {
    tile_load<kTile>(added + at, plane.step);
  } else {
    Line lines[kTileLines];
    const auto* bytes = reinterpret_cast<const char*>(added + at);
    for (int i = 0; i < kTileLines; ++i, bytes += plane.step + (i == 8 ? plane.skip : 0)) {
      store_line(lines + i, _mm512_loadu_si512(bytes));
    }
    tile_load<kTile>(lines, kLineBytes);
  }
}

template <int kTile>
BITRUNG_INLINE void end_pixels(const PixelPlane& plane, float* to) {
  if (plane.skip == 0) {
    tile_store<kTile>(to, plane.step);
  } else {
    Line lines[kTileLines];
    tile_store<kTile>(lines, kLineBytes);
    auto* bytes = reinterpret_cast<char*>(to);
    for (int i = 0; i < kTileLines; ++i, bytes += plane.step + (i == 8 ? plane.skip : 0)) {
      _mm512_storeu_si512(bytes, _mm512_load_si512(lines + i));
    }
  }
}

// Sums of products of rows and weights for each pixel of a plane.
struct RowProducts {
  int side;  // Of the plane of tiles of rows.
  RowsForm form;
  int k_blocks;  // Of the rows,
  int n_blocks;  // of the sums.
  int taps;      // That the weights have; of them `count` are met, at these lines.
  int count;
  long lines[9];
  int weights[9];
  long out_plane;  // Floats from a block of sums to the next,
  long out_row;    // from a row to the next.
  PixelPlane plane;
};

// out = the sums, plus `added` if that is not null.
template <int kM, int kN, int kPieces>
void multiply_rows(const RowProducts& products, const Line* rows, const Line* w, const float* added,
                   float* out, Ahead& ahead) {
  const RowsForm& form = products.form;
  const long more_rows = products.k_blocks * form.block;
  const long block_weights =
      static_cast<long>(products.k_blocks) * products.taps * kPieces * kTileLines;
  const long out_step = products.plane.step / static_cast<long>(sizeof(float));
  const int pixels = products.side * products.side;
  for (int pixel = 0; pixel < pixels; pixel += kM * kBlock) {
    const Line* from[kM];
    long to[kM];
    for (int m = 0; m < kM; ++m) {
      const int y = (pixel + m * kBlock) / products.side;
      const int x = (pixel + m * kBlock) % products.side;
      from[m] = rows + y * form.row + x;
      to[m] = y * products.out_row + x * out_step;
    }
    for (int block = 0; block < products.n_blocks; block += kN) {
      const long at[4] = {
          block * products.out_plane + to[0],
          kN == 2 ? (block + 1) * products.out_plane + to[0] : block * products.out_plane + to[1],
          block * products.out_plane + to[kN == 2 ? 1 : 2],
          kN == 2 ? (block + 1) * products.out_plane + to[1]
                  : block * products.out_plane + to[kM - 1]};
      begin_pixels<0>(products.plane, added, at[0]);
      begin_pixels<1>(products.plane, added, at[1]);
      begin_pixels<2>(products.plane, added, at[2]);
      begin_pixels<3>(products.plane, added, at[3]);
      for (int k = 0; k < products.k_blocks; ++k) {
        for (int t = 0; t < products.count; ++t) {
          const long line = k * form.block + products.lines[t];
          const Line* const tap_w =
              w + block * block_weights +
              (static_cast<long>(k) * products.taps + products.weights[t]) * kPieces * kTileLines;
          fetch(ahead, 14);
          if constexpr (kPieces == 1) {
            multiply_tap<kM, kN>(from, line, tap_w, block_weights);
          } else {
            multiply_tap_twice<kM, kN>(from, line, tap_w, block_weights);
            multiply_tap<kM, kN>(from, more_rows + line, tap_w + 2 * kTileLines, block_weights);
          }
        }
      }
      end_pixels<0>(products.plane, out + at[0]);
      end_pixels<1>(products.plane, out + at[1]);
      end_pixels<2>(products.plane, out + at[2]);
      end_pixels<3>(products.plane, out + at[3]);
    }
  }
}

template <int kPieces>
BITRUNG_INLINE void multiply_all_rows(const RowProducts& products, const Line* rows, const Line* w,
                                      const float* added, float* out, Ahead& ahead) {
  if (products.n_blocks % 2 == 0) {
    multiply_rows<2, 2, kPieces>(products, rows, w, added, out, ahead);
  } else {
    multiply_rows<4, 1, kPieces>(products, rows, w, added, out, ahead);
  }
}

void tile_input_gradients(const Convolution& shape, const Line* rows, const Line* w, int pieces,
                          bool adds, float* dx, Ahead& ahead) {
  constexpr long kPixelBytes = kBlock * sizeof(float);
  const RowsForm form = rows_form(shape.side);
  const long dx_side = static_cast<long>(shape.side) * shape.stride;
  RowProducts products{};
  products.side = shape.side;
  products.form = form;
  products.k_blocks = shape.out_blocks;
  products.n_blocks = shape.in_blocks;
  products.taps = shape.taps;
  products.out_plane = dx_side * dx_side * kBlock;
  products.out_row = shape.stride * dx_side * kBlock;
  products.plane.step = shape.stride * kPixelBytes;
  if (shape.side < kBlock) {
    products.plane.skip = shape.stride * (dx_side - shape.side) * kPixelBytes;
  }
  // dx at (stride y + i, stride x + j) gets dy at (y + a, x + b) through the tap that leads there.
  for (int i = 0; i < shape.stride; ++i) {
    for (int j = 0; j < shape.stride; ++j) {
      products.count = 0;
      for (int t = 0; t < shape.taps; ++t) {
        const int row = i + 1 - (shape.taps == 9 ? t / 3 : 1);
        const int column = j + 1 - (shape.taps == 9 ? t % 3 : 1);
        if (row % shape.stride == 0 && column % shape.stride == 0) {
          products.lines[products.count] =
              (row / shape.stride + 1) * form.row + (column / shape.stride + 1) * form.column;
          products.weights[products.count++] = t;
        }
      }
      if (products.count == 0) {
        continue;
      }
      float* const to = dx + (i * dx_side + j) * kBlock;
      const float* const added = adds ? to : nullptr;
      if (pieces == 1) {
        multiply_all_rows<1>(products, rows, w, added, to, ahead);
      } else {
        multiply_all_rows<3>(products, rows, w, added, to, ahead);
      }
    }
  }
}

// ---- convolutions

// Where a convolution's inputs lie: at a stride of 1 as the gradients of its outputs, else three
// copies of the rows in their order, with the pixels that each column of taps meets.
BITRUNG_INLINE RowsForm input_rows_form(const Convolution& shape) {
  if (shape.stride == 1) {
    return rows_form(shape.side);
  }
  const long copy = static_cast<long>(RowOrder{shape.stride, shape.side}.count()) * shape.side;
  return {shape.side, copy, 3 * copy};
}

void write_input_frame(const Convolution& shape, Line* rows) {
  if (shape.stride == 1) {
    write_frame(shape.side, rows);
    return;
  }
  const __m512i zero = _mm512_setzero_si512();
  const RowsForm form = input_rows_form(shape);
  for (int c = 0; c < 3; ++c) {
    for (int x = 0; x < shape.side; ++x) {
      store_line(rows + c * form.column + x, zero);
    }
  }
  for (long at = 0; at < form.column; at += shape.side) {
    store_line(rows + at, zero);
  }
}

BITRUNG_INLINE void write_input(const Convolution& shape, Line* rows, int y, int x, __m512i line) {
  if (shape.stride == 1) {
    write_pixel(shape.side, rows, y, x, line);
    return;
  }
  const RowOrder order{shape.stride, shape.side};
  const long column = static_cast<long>(order.count()) * shape.side;
  Line* const to = rows + static_cast<long>(order.place(y)) * shape.side + x / 2;
  if (x % 2 == 0) {
    store_line(to + column, line);
    return;
  }
  store_line(to + 2 * column, line);
  if (x / 2 + 1 < shape.side) {
    store_line(to + 1, line);
  }
}

template <Activation::Kind kKind>
void tile_activate_rows_as(const Convolution& shape, const float* x, const NormForward& norm,
                           const Activation& rule, Line* rows) {
  const RowsForm form = input_rows_form(shape);
  const int in_side = shape.side * shape.stride;
  for (int block = 0; block < shape.in_blocks; ++block) {
    const Floats scale = load(norm.scale + block * kBlock);
    const Floats offset = load(norm.offset + block * kBlock);
    Line* const first = rows + block * form.block;
    Line* const second = first + shape.in_blocks * form.block;
    write_input_frame(shape, first);
    write_input_frame(shape, second);
    for (int y = 0; y < in_side; ++y) {
      for (int p = 0; p < in_side; ++p, x += kBlock) {
        const Floats z = load(x) * scale + offset;
        Floats value = above_zero(z);
        if constexpr (kKind != Activation::Kind::kRelu) {
          value = code_of<kKind>(z, rule) * rule.step;
        }
        const __m512i upper = upper_half(value);
        const Floats rest = value - floats_of(upper);
        const __m512i lower = upper_half(rest);
        write_input(shape, first, y, p, two_halves(upper, lower));
        write_input(shape, second, y, p, two_halves(bits_of(rest - floats_of(lower)), upper));
      }
    }
  }
}

void tile_activate_rows(const Convolution& shape, const float* x, const NormForward& norm,
                        const Activation& rule, Line* rows) {
  switch (rule.kind) {
    case Activation::Kind::kRelu:
      return tile_activate_rows_as<Activation::Kind::kRelu>(shape, x, norm, rule, rows);
    case Activation::Kind::kNearest:
      return tile_activate_rows_as<Activation::Kind::kNearest>(shape, x, norm, rule, rows);
    case Activation::Kind::kSign:
      return tile_activate_rows_as<Activation::Kind::kSign>(shape, x, norm, rule, rows);
  }
}

void tile_convolve(const Convolution& shape, const Line* rows, const Line* w, const float* residual,
                   float* out, Ahead& ahead) {
  const RowOrder order{shape.stride, shape.side};
  RowProducts products{};
  products.side = shape.side;
  products.form = input_rows_form(shape);
  products.k_blocks = shape.in_blocks;
  products.n_blocks = shape.out_blocks;
  products.taps = products.count = 9;
  for (int t = 0; t < 9; ++t) {
    const long row = shape.stride == 1 ? t / 3 : order.first(t / 3);
    products.lines[t] = row * products.form.row + t % 3 * products.form.column;
    products.weights[t] = t;
  }
  products.out_row = static_cast<long>(shape.side) * kBlock;
  products.out_plane = shape.side * products.out_row;
  products.plane.step = kBlock * sizeof(float);
  multiply_all_rows<3>(products, rows, w, residual, out, ahead);
}

// ---- convolutions of codes

template <Activation::Kind kKind>
void tile_activate_codes_as(const Convolution& shape, const float* x, const NormForward& norm,
                            const Activation& rule, Line* windows) {
  const int in_side = shape.side * shape.stride;
  const RowOrder order{shape.stride, shape.side};
  const long row_lines = shape.side;
  const __m512i zero = _mm512_setzero_si512();
  // A row's codes between a pixel of zeros and what the last windows read beyond it.
  alignas(64) std::uint8_t row[(32 + 4) * kBlock] = {};
  for (int block = 0; block < shape.in_blocks; ++block) {
    const Floats scale = load(norm.scale + block * kBlock);
    const Floats offset = load(norm.offset + block * kBlock);
    Line* const to = windows + block * order.count() * row_lines;
    for (int k = 0; k < shape.side; ++k) {
      store_line(to + order.place(-1) * row_lines + k, zero);
      if (shape.stride == 1) {
        store_line(to + order.place(in_side) * row_lines + k, zero);
      }
    }
    for (int y = 0; y < in_side; ++y) {
      for (int p = 0; p < in_side; ++p, x += kBlock) {
        const Floats code = code_of<kKind>(load(x) * scale + offset, rule);
        _mm_store_si128(reinterpret_cast<__m128i*>(row + (p + 1) * kBlock),
                        _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(reinterpret_cast<__m512>(code))));
      }
      Line* const line = to + order.place(y) * row_lines;
      for (int k = 0; k < shape.side; ++k) {
        store_line(line + k, _mm512_loadu_si512(row + k * shape.stride * kBlock));
      }
    }
  }
}

void tile_activate_codes(const Convolution& shape, const float* x, const NormForward& norm,
                         const Activation& rule, Line* windows) {
  if (rule.kind == Activation::Kind::kSign) {
    tile_activate_codes_as<Activation::Kind::kSign>(shape, x, norm, rule, windows);
  } else {
    tile_activate_codes_as<Activation::Kind::kNearest>(shape, x, norm, rule, windows);
  }
}

// Two tiles of pixels times two blocks of channels, or four tiles times one block.
template <int kN>
void tile_convolve_codes_of(const Convolution& shape, const Line* windows, const Line* w,
                            const float* scale, const float* residual, float* out,
                            const MomentSums* moments, Ahead& ahead) {
  constexpr int kM = kN == 2 ? 2 : 4;
  const RowOrder order{shape.stride, shape.side};
  const long in_plane = static_cast<long>(order.count()) * shape.side;
  const long out_plane = static_cast<long>(shape.side) * shape.side * kBlock;
  const long block_weights = static_cast<long>(shape.in_blocks) * 3 * kTileLines;
  const int pixels = shape.side * shape.side;
  for (int pixel = 0; pixel < pixels; pixel += kM * kBlock) {
    for (int block = 0; block < shape.out_blocks; block += kN) {
      tile_clear<0>();
      tile_clear<1>();
      tile_clear<2>();
      tile_clear<3>();
      const Line* tap_w = w + block * block_weights;
      for (int i = 0; i < shape.in_blocks; ++i) {
        for (int r = 0; r < 3; ++r, tap_w += kTileLines) {
          const Line* const from =
              windows + i * in_plane + static_cast<long>(order.first(r)) * shape.side + pixel;
          fetch(ahead, 10);
          tile_load<6>(tap_w, kLineBytes);
          tile_load<4>(from, kLineBytes);
          tile_multiply_codes<0, 4, 6>();
          tile_load<5>(from + kBlock, kLineBytes);
          if constexpr (kN == 2) {
            tile_load<7>(tap_w + block_weights, kLineBytes);
            tile_multiply_codes<1, 4, 7>();
            tile_multiply_codes<2, 5, 6>();
            tile_multiply_codes<3, 5, 7>();
          } else {
            tile_multiply_codes<1, 5, 6>();
            tile_load<4>(from + 2 * kBlock, kLineBytes);
            tile_multiply_codes<2, 4, 6>();
            tile_load<5>(from + 3 * kBlock, kLineBytes);
            tile_multiply_codes<3, 5, 6>();
          }
        }
      }
      Line sums[4][kTileLines];
      tile_store<0>(sums[0], kLineBytes);
      tile_store<1>(sums[1], kLineBytes);
      tile_store<2>(sums[2], kLineBytes);
      tile_store<3>(sums[3], kLineBytes);
      for (int n = 0; n < kN; ++n) {
        const int channel = (block + n) * kBlock;
        const Floats factor = load(scale + channel);
        const Floats shift = moments == nullptr ? Floats{} : load(moments->shift + channel);
        Floats s = {};
        Floats q = {};
        for (int m = 0; m < kM; ++m) {
          long at = (block + n) * out_plane + (static_cast<long>(pixel) + m * kBlock) * kBlock;
          const Line* from = sums[m * kN + n];
          for (int p = 0; p < kTileLines; ++p, ++from, at += kBlock) {
            Floats value =
                reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_load_si512(from))) * factor;
            if (residual != nullptr) {
              value += load(residual + at);
            }
            store(out + at, value);
            const Floats centered = value - shift;
            s += centered;
            q += centered * centered;
          }
        }
        if (moments != nullptr) {
          add_to(moments->sums + channel, s);
          add_to(moments->squares + channel, q);
        }
      }
    }
  }
}

void tile_convolve_codes(const Convolution& shape, const Line* windows, const Line* w,
                         const float* scale, const float* residual, float* out,
                         const MomentSums* moments, Ahead& ahead) {
  if (shape.out_blocks % 2 == 0) {
    tile_convolve_codes_of<2>(shape, windows, w, scale, residual, out, moments, ahead);
  } else {
    tile_convolve_codes_of<1>(shape, windows, w, scale, residual, out, moments, ahead);
  }
}

// ---- images

// For the gradients of an image's weights: for each row, the nine values that a row of taps meets
// at two pixels, and what lies behind them.
void tile_image(const Convolution& shape, const float* in, Line* pairs) {
  const long row = static_cast<long>(shape.side + 2) * kImageChannels;
  const long piece = static_cast<long>(shape.side + 2) * (shape.side / 2);
  for (int y = 0; y < shape.side + 2; ++y) {
    const float* from = in + y * row;
    for (int k = 0; k < shape.side / 2; ++k, ++pairs, from += 2 * kImageChannels) {
      __m512i upper[2];
      __m512i lower[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Floats value =
            reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(0x01FF, from + i * kImageChannels));
        upper[i] = upper_half(value);
        lower[i] = upper_half(value - floats_of(upper[i]));
      }
      store_line(pairs, pair_of(upper[0], upper[1]));
      store_line(pairs + piece, pair_of(lower[0], lower[1]));
    }
  }
}

void tile_image_weight_gradients(const Convolution& shape, const Line* pairs, const Line* columns,
                                 float* dw, Ahead& ahead) {
  constexpr long kTileFloats = kBlock * kBlock;
  const long row = shape.side / 2;
  const long piece = (shape.side + 2) * row;
  const int chunks = shape.side * shape.side / kChunk;
  const long block_columns = static_cast<long>(chunks) * kTileLines;
  for (int first = 0; first < chunks; first += kChunksTogether) {
    const int count = first + kChunksTogether < chunks ? kChunksTogether : chunks - first;
    const Line* const from = pairs + static_cast<long>(first) * kTileLines;
    for (int o = 0; o < shape.out_blocks; ++o) {
      const Line* const high = columns + o * block_columns + static_cast<long>(first) * kTileLines;
      float* const to = dw + 3 * o * kTileFloats;
      const Line* const values[3] = {from, from + row, from + 2 * row};
      float* const sums[3] = {to, to + kTileFloats, to + 2 * kTileFloats};
      multiply_chunks<3, 2>(high, high + shape.out_blocks * block_columns, values, piece, count,
                            sums, ahead);
    }
  }
}

const TileKernels kTileKernels = {
    .begin = tiles_begin,
    .end = tiles_end,
    .norm_gradients = tile_norm_gradients,
    .gradients = tile_gradients,
    .activate = tile_activate,
    .weight_gradients = tile_weight_gradients,
    .input_gradients = tile_input_gradients,
    .activate_rows = tile_activate_rows,
    .convolve = tile_convolve,
    .activate_codes = tile_activate_codes,
    .convolve_codes = tile_convolve_codes,
    .image = tile_image,
    .image_weight_gradients = tile_image_weight_gradients,
};
