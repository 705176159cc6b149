# Reference figures for the comparison with a baseline, the score interval of paired proportions and
# the permutation test of Kendall's tau. Computed with R only: base, multcomp and mvtnorm.
#
#   Rscript multcomp.R [multcomp.json]
#
# takes about five minutes on one core and overwrites the JSON, by default multcomp.json in the
# working directory. The figures are the same on every run: all generators are seeded.

suppressPackageStartupMessages({
  library(mvtnorm)
  library(multcomp)
})

LEVEL <- 0.95
INTEGRATION_SEED <- 1998
ABSEPS <- 1e-6
MAXPTS <- 1e6

seeded <- function(seed) set.seed(seed, "Mersenne-Twister", "Inversion", "Rejection")

# Accuracies in percent. The correlation is that between variants across seeds; `sd` is a variant's
# standard deviation over seeds. The sizes of five sets give an integer df, because pmvt accepts no
# other. In the rounded set, `twin` is a variant whose difference to the baseline does not vary.

DATA_SETS <- list(
  list(name = "1x5", truth = 0.5, seeds = 5, correlation = 0.6, sd = 0.4),
  list(name = "2x5", truth = c(1.5, 0), seeds = 5, correlation = 0, sd = 0.3),
  list(name = "3x4", truth = c(0, 0.5, -1.5), seeds = 4, correlation = 0.6, sd = 0.4),
  list(name = "4x3", truth = c(0, 0.5, -0.5, 1.5), seeds = 3, correlation = 0.6, sd = 0.4),
  list(name = "4x5", truth = c(0, 0.5, -0.5, -1.5), seeds = 5, correlation = 0, sd = 0.5),
  list(name = "4x9", truth = c(0, 0.5, -0.5, 1.5), seeds = 9, correlation = 0.6, sd = 0.6),
  list(
    name = "10x5", truth = rep(c(0, 0.5, -0.5, 1.5, -1.5), 2),
    seeds = 5, correlation = 0, sd = 0.4
  ),
  list(
    name = "40x5", truth = rep(c(0, 0, 0, 0.5, -0.5, 0, 1.5, -1.5), 5),
    seeds = 5, correlation = 0, sd = 0.4
  ),
  list(
    name = "2x7 in steps of 0.2", truth = c(0.5, 0.4),
    seeds = 7, correlation = 0.6, sd = 0.3, step = 0.2, twin = 2
  ),
  list(
    name = "2x9, baseline sd 3 times", truth = c(0, -1.5),
    seeds = 9, correlation = 0, sd = 0.4, baseline_factor = 3
  )
)

generate <- function(spec, seed) {
  seeded(seed)
  rows <- length(spec$truth) + 1
  shared <- rnorm(spec$seeds)
  own <- matrix(rnorm(rows * spec$seeds), rows)
  scale <- c(if (is.null(spec$baseline_factor)) 1 else spec$baseline_factor, rep(1, rows - 1))
  deviations <- scale * (sqrt(1 - spec$correlation) * own +
    matrix(sqrt(spec$correlation) * shared, rows, spec$seeds, byrow = TRUE))
  if (!is.null(spec$twin)) deviations[spec$twin + 1, ] <- deviations[1, ]
  accuracies <- 93 + c(0, spec$truth) + spec$sd * deviations
  # x * 5 / 5 instead of x / 0.2 * 0.2: gives the double nearest to the decimal number.
  if (is.null(spec$step)) accuracies else round(accuracies / spec$step) / round(1 / spec$step)
}

# P(max |T| >= q) for V t statistics with one shared df, which may be fractional, and correlation
# 0.5: T_v = (Z_v - Z_0) / (sqrt(2) U), U = sqrt(chi2_df / df). Dunnett (1955), Sec. 5.
max_t_tail <- function(q, num_variants, df) {
  given_u <- function(u) {
    bound <- sqrt(2) * q * u
    integrand <- function(z) {
      outside <- pmin(pnorm(z - bound) + pnorm(-bound - z), 1)
      -expm1(num_variants * log1p(-outside)) * dnorm(z)
    }
    cuts <- sort(unique(c(0, pmin(bound, 9), 9))) # the integrand is even in z
    pieces <- mapply(function(from, to) {
      integrate(integrand, from, to, rel.tol = 1e-11, abs.tol = 1e-15, subdivisions = 1000)$value
    }, head(cuts, -1), tail(cuts, -1))
    2 * sum(pieces)
  }
  density <- function(u) 2 * df * u * dchisq(df * u^2, df)
  cuts <- sqrt(qchisq(c(0, 1e-9, 1e-6, 1e-3, 0.1, 0.9, 1 - 1e-6, 1 - 1e-14), df) / df)
  pieces <- mapply(function(from, to) {
    integrate(
      function(u) vapply(u, given_u, 0) * density(u), from, to,
      rel.tol = 1e-9, abs.tol = 1e-14, subdivisions = 1000
    )$value
  }, head(cuts, -1), tail(cuts, -1))
  sum(pieces)
}

max_t_quantile <- function(num_variants, df) {
  bounds <- c(qt((1 + LEVEL) / 2, df) * 0.999, qt(1 - (1 - LEVEL) / 2 / num_variants, df) * 1.001)
  uniroot(
    function(q) max_t_tail(q, num_variants, df) - (1 - LEVEL), bounds,
    tol = 1e-10
  )$root
}

by_integration <- function(difference, standard_error, df) {
  num_variants <- length(difference)
  quantile <- max_t_quantile(num_variants, df)
  list(
    quantile = quantile,
    low = I(difference - quantile * standard_error),
    high = I(difference + quantile * standard_error),
    p_value = I(vapply(abs(difference / standard_error), max_t_tail, 0, num_variants, df))
  )
}

# The quantile of max |T| for a glht. glht's default, qmvt, has errors of 0.003 in the quantile and
# does not converge if its tolerances are reduced.
quantile_by_pmvt <- function(hypotheses, level) {
  correlation <- cov2cor(vcov(hypotheses))
  num_variants <- nrow(correlation)
  df <- hypotheses$df
  if (num_variants == 1) return(qt((1 + level) / 2, df))
  coverage <- function(q) {
    seeded(INTEGRATION_SEED)
    limits <- rep(q, num_variants)
    pmvt(-limits, limits, df = df, corr = correlation, abseps = ABSEPS, maxpts = MAXPTS)
  }
  bounds <- qt(1 - (1 - level) / 2 / c(1, num_variants), df) # one comparison, Bonferroni
  uniroot(function(q) coverage(q) - level, bounds, tol = 1e-6)$root
}

# The warning that abseps is not reached is replaced by the reported error. That error is absolute:
# p values below 1e-5 can come out below the unadjusted ones. by_integration is accurate there too.
by_glht <- function(hypotheses) {
  intervals <- confint(hypotheses, level = LEVEL, calpha = quantile_by_pmvt)$confint
  seeded(INTEGRATION_SEED)
  p_values <- suppressWarnings(summary(
    hypotheses,
    test = adjusted("single-step", abseps = ABSEPS, maxpts = MAXPTS)
  ))$test$pvalues
  list(
    quantile = attr(intervals, "calpha"),
    low = I(unname(intervals[, "lwr"])),
    high = I(unname(intervals[, "upr"])),
    p_value = I(as.vector(p_values)),
    p_value_error = as.vector(attr(p_values, "error"))
  )
}

moderated <- function(accuracies, step) {
  num_variants <- nrow(accuracies) - 1
  num_seeds <- ncol(accuracies)
  differences <- sweep(accuracies[-1, , drop = FALSE], 2, accuracies[1, ])
  variance <- pmax(apply(differences, 1, var), step^2 / 6)
  own_df <- num_seeds - 1
  prior_df <- min(own_df / 2, 2) * (num_variants - 1) / num_variants
  df <- prior_df + own_df
  moderated_variance <- (prior_df * mean(variance) + own_df * variance) / df
  difference <- rowMeans(differences)
  standard_error <- sqrt(moderated_variance / num_seeds)
  results <- list(
    difference = I(difference), variance = I(variance), prior_df = prior_df, df = df,
    moderated_variance = I(moderated_variance), standard_error = I(standard_error)
  )
  results$integration <- by_integration(difference, standard_error, df)
  if (df == round(df)) {
    correlation <- matrix(0.5, num_variants, num_variants) + diag(0.5, num_variants)
    names(difference) <- paste0("v", seq_len(num_variants))
    covariance <- correlation * outer(standard_error, standard_error)
    model <- parm(coef = difference, vcov = covariance, df = df)
    results$glht <- by_glht(glht(model, linfct = diag(num_variants)))
  }
  results
}

paired_t <- function(accuracies) {
  test <- t.test(accuracies[2, ], accuracies[1, ], paired = TRUE, conf.level = LEVEL)
  list(
    difference = unname(test$estimate), df = unname(test$parameter),
    low = test$conf.int[1], high = test$conf.int[2], p_value = test$p.value
  )
}

dunnett_with_blocks <- function(accuracies) {
  variants <- paste0("v", seq_len(nrow(accuracies)) - 1)
  frame <- data.frame(
    accuracy = as.vector(accuracies),
    variant = factor(rep(variants, ncol(accuracies)), levels = variants), # not "v10" before "v2"
    seed = factor(rep(seq_len(ncol(accuracies)), each = nrow(accuracies)))
  )
  fit <- lm(accuracy ~ variant + seed, frame)
  hypotheses <- glht(fit, linfct = mcp(variant = "Dunnett"))
  difference <- unname(coef(hypotheses))
  standard_error <- unname(sqrt(diag(vcov(hypotheses))))
  list(
    difference = I(difference), df = fit$df.residual, standard_error = standard_error[1],
    integration = by_integration(difference, standard_error, fit$df.residual),
    glht = by_glht(hypotheses)
  )
}

compare <- function(spec, seed) {
  accuracies <- generate(spec, seed)
  step <- if (is.null(spec$step)) 0 else spec$step
  message(spec$name)
  case <- list(
    name = spec$name, num_variants = length(spec$truth), num_seeds = spec$seeds,
    generator_seed = seed, seed_correlation = spec$correlation, sd = spec$sd, step = step,
    true_difference = I(spec$truth), accuracies = accuracies,
    moderated = moderated(accuracies, step)
  )
  if (nrow(accuracies) == 2) case$paired_t_test <- paired_t(accuracies)
  case$dunnett_with_seeds_as_blocks <- dunnett_with_blocks(accuracies)
  case
}

# Constrained maximum-likelihood estimate of the probability of a loss (Tango 1998, Sec. 3) for a
# difference `delta` = P(gain) - P(loss): the larger root of a quadratic.
constrained_loss <- function(delta, gained, lost, number) {
  a <- 2 * number
  b <- (2 * number - gained + lost) * delta - gained - lost
  c <- -lost * delta * (1 - delta)
  root <- sqrt(max(b^2 - 4 * a * c, 0))
  if (b > 0) -2 * c / (b + root) else (root - b) / (2 * a) # the form without cancellation
}

# The same estimate by maximising the trinomial likelihood numerically: a check of the formula.
constrained_loss_numerically <- function(delta, gained, lost, number) {
  term <- function(count, p) if (count == 0) 0 else count * log(p)
  likelihood <- function(p) {
    term(gained, p + delta) + term(lost, p) + term(number - gained - lost, 1 - 2 * p - delta)
  }
  optimize(likelihood, c(max(0, -delta), (1 - delta) / 2), maximum = TRUE, tol = 1e-12)$maximum
}

tango <- function(gained, lost, number, level) {
  z <- qnorm((1 + level) / 2)
  excess <- function(delta) {
    variance <- 2 * constrained_loss(delta, gained, lost, number) + delta * (1 - delta)
    (gained - lost - number * delta)^2 - z^2 * number * variance
  }
  estimate <- (gained - lost) / number
  end <- function(limit) {
    inner <- estimate + sign(limit - estimate) * 1e-9
    uniroot(excess, sort(c(inner, limit)), tol = 1e-14, maxiter = 10000)$root
  }
  ends <- c(low = end(-1), high = end(1))
  for (delta in ends) {
    stopifnot(abs(
      constrained_loss(delta, gained, lost, number) -
        constrained_loss_numerically(delta, gained, lost, number)
    ) < 1e-7)
  }
  as.list(ends)
}

PAIRED_COUNTS <- list(
  c(0, 100, 10000), c(20, 320, 10000), c(5, 505, 10000), c(30, 330, 10000), c(1, 16, 500),
  c(0, 0, 500), c(5, 0, 500), c(0, 3, 100), c(12, 9, 1000), c(250, 250, 500)
)

paired_proportions <- function(counts) {
  interval <- function(level) tango(counts[1], counts[2], counts[3], level)
  list(
    gained = counts[1], lost = counts[2], number = counts[3],
    difference = (counts[1] - counts[2]) / counts[3],
    level_0.95 = interval(0.95), level_0.995 = interval(0.995)
  )
}

permutations <- function(n) {
  if (n == 1) return(matrix(1L))
  shorter <- permutations(n - 1)
  do.call(rbind, lapply(seq_len(n), function(first) {
    cbind(first, shorter + (shorter >= first), deparse.level = 0)
  }))
}

concordant_minus_discordant <- function(x, y) {
  sum(sign(outer(x, x, "-")) * sign(outer(y, y, "-"))) / 2
}

RANKED_PAIRS <- list(
  list(x = 1:4, y = c(70, 71, 72, 72)),
  list(x = c(1, 1, 2, 3), y = c(70, 71, 71, 73)),
  list(x = 1:5, y = c(70, 70, 72, 71, 73)),
  list(x = c(1, 2, 2, 3, 4), y = c(73, 72, 71, 71, 70)),
  list(x = c(1, 2, 3, 3, 4, 5), y = c(71, 70, 72, 72, 71, 74)),
  list(x = c(1, 2, 2, 3, 4, 4, 5), y = c(70, 71, 70, 73, 72, 73, 73))
)

kendall <- function(pair) {
  observed <- concordant_minus_discordant(pair$x, pair$y)
  orders <- permutations(length(pair$y))
  permuted <- apply(orders, 1, function(order) concordant_minus_discordant(pair$x, pair$y[order]))
  extreme <- sum(abs(permuted) >= abs(observed))
  list(
    x = pair$x, y = pair$y, tau_b = cor(pair$x, pair$y, method = "kendall"), score = observed,
    num_extreme = extreme, num_permutations = nrow(orders), p_value = extreme / nrow(orders)
  )
}

# Significant digits: 17 for the inputs (`accuracies`), ten for results; jsonlite stops at 15.
# A vector marked by I() is an array even if it has one element.
to_json <- function(value, indent = "", digits = 10) {
  deeper <- paste0(indent, "  ")
  number <- function(x) sprintf(paste0("%.", digits, "g"), x)
  enclose <- function(items, marks) {
    body <- paste0(deeper, items, collapse = ",\n")
    paste0(marks[1], "\n", body, "\n", indent, marks[2])
  }
  if (is.character(value)) return(paste0('"', value, '"'))
  if (is.matrix(value)) {
    rows <- apply(value, 1, function(row) paste0("[", paste(number(row), collapse = ", "), "]"))
    return(enclose(rows, c("[", "]")))
  }
  if (is.list(value) && is.null(names(value))) {
    return(enclose(vapply(value, to_json, "", deeper), c("[", "]")))
  }
  if (is.list(value)) {
    items <- mapply(function(item, name) {
      paste0('"', name, '": ', to_json(item, deeper, if (name == "accuracies") 17 else 10))
    }, value, names(value))
    return(enclose(items, c("{", "}")))
  }
  text <- paste(number(unclass(value)), collapse = ", ")
  if (length(value) == 1 && !inherits(value, "AsIs")) return(text)
  if (nchar(text) < 90) return(paste0("[", text, "]"))
  lines <- strwrap(text, width = 98, prefix = deeper)
  paste0("[\n", paste(lines, collapse = "\n"), "\n", indent, "]")
}

arguments <- commandArgs(trailingOnly = TRUE)
reference <- list(
  r_version = R.version.string,
  multcomp_version = as.character(packageVersion("multcomp")),
  mvtnorm_version = as.character(packageVersion("mvtnorm")),
  settings = list(
    level = LEVEL, integration_seed = INTEGRATION_SEED, abseps = ABSEPS, maxpts = MAXPTS
  ),
  comparisons = mapply(compare, DATA_SETS, 100 + seq_along(DATA_SETS), SIMPLIFY = FALSE),
  paired_proportions = lapply(PAIRED_COUNTS, paired_proportions),
  kendall = lapply(RANKED_PAIRS, kendall)
)
writeLines(to_json(reference), if (length(arguments)) arguments[1] else "multcomp.json")
