#include "client/cli/text.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "client/cli/output.h"
#include "tests/unit/client/cli/sample.h"

namespace bitrung::cli {
namespace {

TEST(Text, DurationsFromTenthsToDays) {
  EXPECT_EQ(format_duration(0), "0.0s");
  EXPECT_EQ(format_duration(0.44), "0.4s");
  EXPECT_EQ(format_duration(9.94), "9.9s");
  EXPECT_EQ(format_duration(9.96), "10s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(123), "2m03s");
  EXPECT_EQ(format_duration(3599.4), "59m59s");
  EXPECT_EQ(format_duration(3720), "1h02m");
  EXPECT_EQ(format_duration(273'600), "3d04h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Text, NumbersForPeople) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1'234'567), "1,234,567");
  EXPECT_EQ(format_percent(61.2), "61.20");
  EXPECT_EQ(format_points(0.306), "+0.31");
  EXPECT_EQ(format_points(-1.2), "-1.20");
  EXPECT_EQ(format_points(-0.001), "0.00");
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(170'498'071), "163 MiB");
  EXPECT_EQ(format_flops(999.6), "1.0 kFLOP");
  EXPECT_EQ(format_flops(4.12e12), "4.1 TFLOP");
  EXPECT_EQ(format_plural(1, "job"), "1 job");
  EXPECT_EQ(format_plural(1100, "job"), "1,100 jobs");
  EXPECT_EQ(format_age(kNowMs, kNowMs + 5000), "now");
  EXPECT_EQ(format_age(kNowMs, kNowMs - 42'000), "42s ago");
}

TEST(Text, PrintableDropsWhatSteersATerminal) {
  EXPECT_EQ(printable("plain – ünïcode"), "plain – ünïcode");
  EXPECT_EQ(printable("\x1b[31mred\x1b[0m"), "red");
  EXPECT_EQ(printable("\x1b]0;title\x07text"), "text");
  EXPECT_EQ(printable("\x1b]8;;http://x\x1b\\link"), "link");
  EXPECT_EQ(printable("50%\r100%\b\a"), "50%100%");
  EXPECT_EQ(printable("a\tb"), "a    b");
  EXPECT_EQ(printable("C1 \xc2\x9b"
                      "31m"),
            "C1 31m");
  EXPECT_EQ(printable("bad \xff\xfe\xc3"), "bad ???");
  EXPECT_EQ(printable("\x1b"), "");
  EXPECT_EQ(printable("\x1b["), "");
}

TEST(Text, FitAndPadCountCharactersNotBytes) {
  EXPECT_EQ(display_width("übér"), 4U);
  EXPECT_EQ(fit("assisted.bits=32", 16, kFullStyle), "assisted.bits=32");
  EXPECT_EQ(fit("assisted.bits=32", 10, kFullStyle), "assisted.…");
  EXPECT_EQ(fit("assisted.bits=32", 10, kPlainStyle), "assisted.~");
  EXPECT_EQ(fit("übér", 3, kPlainStyle), "üb~");
  EXPECT_EQ(fit("x", 0, kPlainStyle), "");
  EXPECT_EQ(pad_right("é", 3), "é  ");
  EXPECT_EQ(pad_left("é", 3), "  é");
  EXPECT_EQ(pad_left("long", 2), "long");
}

TEST(Text, NearestWordIsSaidOnlyWhenItIsNear) {
  const std::vector<std::string> words{"run", "plan", "results", "retry", "status"};
  EXPECT_EQ(nearest("reslts", words), "results");
  EXPECT_EQ(nearest("rnu", words), "run");
  EXPECT_EQ(nearest("stat", words), "status");
  EXPECT_EQ(nearest("plna", words), "plan");
  EXPECT_EQ(nearest("deploy", words), std::nullopt);
  EXPECT_EQ(nearest("x", words), std::nullopt);
}

TEST(Text, SparklineSpansTheRange) {
  const std::array<double, 3> rising{1.0, 2.0, 3.0};
  EXPECT_EQ(sparkline(rising, kFullStyle), "▁▅█");
  EXPECT_EQ(sparkline(rising, kPlainStyle), "_=#");
  const std::array<double, 2> flat{2.0, 2.0};
  EXPECT_EQ(sparkline(flat, kFullStyle), "▅▅");
  EXPECT_EQ(sparkline({}, kFullStyle), "");
}

TEST(Text, PaintIsNothingWithoutColour) {
  EXPECT_EQ(kPlainStyle.paint(Tone::kBad, "failed"), "failed");
  EXPECT_EQ(kFullStyle.paint(Tone::kBad, "failed"), "\x1b[31mfailed\x1b[0m");
  EXPECT_EQ(kFullStyle.paint(Tone::kPlain, "x"), "x");
}

TEST(Output, TsvLineKeepsOneLine) {
  EXPECT_EQ(tsv_line({"a\tb", "c\nd", "\x1b[31me", ""}), "a b\tc d\te\t\n");
}

TEST(Output, TableAlignsPaintedAndWideCells) {
  Table table({{"job", Align::kLeft}, {"accuracy", Align::kRight}, {"note", Align::kLeft}});
  table.add_row({"übung", "9.50", ""});
  table.add_row({"b", Cell("100.00", Tone::kGood), "x"});
  table.add_row({"only"});
  EXPECT_EQ(table.text(kPlainStyle, 1),
            " job    accuracy  note\n"
            " übung      9.50\n"
            " b        100.00  x\n"
            " only\n");
}

}  // namespace
}  // namespace bitrung::cli
