#pragma once

#include <nanobind/nanobind.h>

namespace membound {

void bind_matmul(nanobind::module_& m);

}  // namespace membound
